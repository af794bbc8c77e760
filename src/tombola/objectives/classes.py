"""Which classes a subset has, and answers among them. Shape letters: B batch, K subsets, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tombola._utils.errors import DataError
from tombola.data.dataset import Data, number
from tombola.data.partition import Partition


def classes_of(data: Data, partition: Partition) -> Tensor:
    """Which classes each subset has in training, boolean ``[K, C]``."""
    y, members_SK = data.train.y.long(), partition.members["train"]
    C = int(y.max()) + 1
    return torch.stack([torch.bincount(y[mine].flatten(), minlength=C) > 0 for mine in members_SK.unbind(1)])


def differ(classes_KC: Tensor) -> bool:
    """Whether some subsets have other classes than others."""
    return bool((classes_KC != classes_KC[0]).any())


def allowed(metadata: Mapping[str, Any], names: Sequence[str], x: Tensor | None = None) -> Tensor | None:
    """The classes with which tickets answer, by their facts, boolean ``[B, C]``; None for all outputs.

    Args:
        facts: of the tickets: ``classes`` by the name of the subset; ``told``, the names in order, where
            one network answers for all subsets and is told which.
        names: of the ticket that answers each sample.
        x: the samples, which tell such a network.

    >>> allowed({"classes": {"a": [0, 1], "b": [2]}}, ["b", "a"]).tolist()
    [[False, False, True], [True, True, False]]
    """
    classes: Mapping[str, Sequence[int]] = metadata.get("classes", {})
    if not classes or not names:
        return None
    if "told" in metadata and x is not None:
        names = [metadata["told"][k] for k in number(x).long().tolist()]
    classes_KC = torch.zeros(len(classes), 1 + max(map(max, classes.values())), dtype=torch.bool)
    for row, own in zip(classes_KC, classes.values(), strict=True):
        row[list(own)] = True
    numbers = {name: k for k, name in enumerate(classes)}
    return classes_KC[[numbers[name] for name in names]]


def mask_logits(outputs: Tensor, classes: Tensor) -> Tensor:
    """Outputs ``[B, C, ...]``, minus infinity at other classes than these.

    Args:
        outputs: a number per class; those beyond the last class that is known are of none.
        classes: boolean, ``[C]`` for all samples or ``[B, C]``.

    Raises:
        DataError: more classes than outputs.

    >>> mask_logits(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([False, True])).tolist()
    [[-inf, 2.0, -inf]]
    """
    known = classes.shape[-1]
    if known > outputs.shape[1]:
        raise DataError(f"class {known - 1} in y, but the network has {outputs.shape[1]} outputs")
    wide = outputs.new_zeros(outputs.shape[:2], dtype=torch.bool)
    wide[:, :known] = classes.to(outputs.device)
    return outputs.masked_fill(~wide.view(*wide.shape, *[1] * (outputs.ndim - 2)), -torch.inf)
