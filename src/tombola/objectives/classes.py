"""Which classes a subset has, and answers among them. Shape letters: B batch, K subsets, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tombola.data import Data
from tombola.partition import Partition


def held(data: Data, partition: Partition) -> Tensor:
    """Which classes each subset has in training, boolean ``[K, C]``."""
    y, members_SK = data.train.y.long(), partition.members["train"]
    C = int(y.max()) + 1
    return torch.stack([torch.bincount(y[mine].flatten(), minlength=C) > 0 for mine in members_SK.unbind(1)])


def differ(held_KC: Tensor) -> bool:
    """Whether some subsets have other classes than others."""
    return bool((held_KC != held_KC[0]).any())


def allowed(facts: Mapping[str, Any], names: Sequence[str]) -> Tensor | None:
    """The classes with which tickets answer, by their facts, boolean ``[B, C]``; None for all outputs.

    >>> allowed({"classes": {"a": [0, 1], "b": [2]}}, ["b", "a"]).tolist()
    [[False, False, True], [True, True, False]]
    """
    classes: Mapping[str, Sequence[int]] = facts.get("classes", {})
    if not classes or not names:
        return None
    rows = torch.zeros(len(names), 1 + max(map(max, classes.values())), dtype=torch.bool)
    for row, name in zip(rows, names, strict=True):
        row[list(classes[name])] = True
    return rows


def among(outputs: Tensor, allowed: Tensor) -> Tensor:
    """Outputs ``[B, C, ...]``, minus infinity at the classes that are not allowed.

    Args:
        outputs: a number per class; those beyond the last class that is known are of none.
        allowed: boolean, ``[C]`` for all samples or ``[B, C]``.

    >>> among(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([False, True])).tolist()
    [[-inf, 2.0, -inf]]
    """
    allowed_BC = allowed.to(outputs.device).expand(len(outputs), -1)
    wide = outputs.new_zeros(outputs.shape[:2], dtype=torch.bool)
    wide[:, : allowed_BC.shape[1]] = allowed_BC
    return outputs.masked_fill(~wide.view(*wide.shape, *[1] * (outputs.ndim - 2)), -torch.inf)
