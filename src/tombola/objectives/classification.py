"""Multi-class classification inside each subset: the context is given, the class is the answer.

Shape letters: S samples of a split, B batch, K subsets (tickets), C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import DataError, PartitionError, UsageError
from tombola.data.dataset import Data, number
from tombola.data.partition import Partition
from tombola.masks.layout import Layout
from tombola.objectives.objective import InSubset, Metric, Predict, mean_and_each, own_rows

Among = Literal["subset", "all"]
MOST = 10**6  # classes; larger numbers are taken for something else


class Classification(InSubset):
    """Cross-entropy over classes of ``y``.

    Args:
        among: what a ticket is trained to choose from where subsets hold different classes. ``all``: all
            outputs, so that every ticket also learns that the classes of others never come, on rows of the
            classifier that it shares with them. ``subset``: the classes that its own has in training, as it
            is judged; the rows of other classes are then none of its own. One network for all subsets is
            trained likewise if it is told the context, and among all classes if not.
        output: see `Objective`.

    Metrics, of each ticket on the test samples of its own subset, and their mean: ``accuracy`` among
    the classes that the subset has in training, which whoever knows the context knows, for single
    networks as for tickets; and, where subsets hold different classes, ``accuracy_open`` among all
    classes, which favours tickets that were trained among all and never saw those of other subsets.
    """

    answer = "class"
    router_score = "energy"

    def __init__(self, among: Among = "all", *, output: str | int | None = None) -> None:
        super().__init__(output=output)
        if among not in get_args(Among):
            raise UsageError(f"among is {' or '.join(get_args(Among))}: got {among!r}")
        self.among: Among = among
        self.classes_KC: Tensor | None = None  # of the data that it is `of`, where subsets differ in them
        self.conditioned = False  # whether one network for all subsets is told which

    def of(self, data: Data, partition: Partition) -> Self:
        """Knowing which classes each subset has, and whether a network for all is told the subset.

        Raises:
            PartitionError: a subset holds a single class, and a ticket is to be trained among its own.
        """
        bound, judged = copy.copy(self), self.original or partition
        bound.conditioned = data.contexts is not None
        bound.classes_KC = None
        if not _strange(data.train.y):
            classes_KC = classes_of(data, judged)
            bound.classes_KC = classes_KC if differ(classes_KC) else None
        if bound._own_KC is not None:
            for name, row in zip(judged.names, bound._own_KC, strict=True):
                if int(row.sum()) < 2:
                    raise PartitionError(
                        f"subset {name!r} holds a single class in training, so it has nothing to learn among "
                        "its own classes: merge it with another, or pass among='all'"
                    )
        return bound

    @property
    def _known_KC(self) -> Tensor | None:
        """The classes of each subset, where who answers knows the subset and they are not all."""
        return self.classes_KC if self.original is None or self.conditioned else None

    @property
    def _own_KC(self) -> Tensor | None:
        """The same, where training is among them."""
        return self._known_KC if self.among == "subset" else None

    def answers(self, partition: Partition) -> dict[str, list[int]]:
        """The classes of each subset; whoever uses a ticket, or tells a network the subset, knows them."""
        if self._known_KC is None:
            return {}
        names = (self.original or partition).names
        return {name: row.nonzero()[:, 0].tolist() for name, row in zip(names, self._known_KC, strict=True)}

    def choices(self) -> dict[str, str]:
        """The choice of classes that training is among, where it is one."""
        return {} if self._own_KC is None else {"among": self.among}

    def trainable(self, shared: Layout, head: Sequence[str], k: int) -> Tensor | None:
        """All, but for the classifier's rows of classes among which ticket k is not trained."""
        if self._own_KC is None or self.original is not None:
            return None
        return own_rows(shared, head, self._own_KC[k])

    def doubts(self, data: Data, partition: Partition) -> list[str]:
        """Subsets of a single class leave nothing to ask; others are ruled out for nothing."""
        held_KC = labels_held(data, partition)
        if held_KC is None:
            return []
        if bool((held_KC.sum(1) == 1).all()):
            return [
                "every subset holds a single class, so that within its subset every answer is right: "
                "OneVsRest asks which subset a sample is of, and accuracy_open judges among all classes"
            ]
        if self.among == "all" and int(held_KC.sum(1).min()) > 1 and differ(held_KC):
            return [
                "subsets hold different classes, and Classification trains every ticket to rule out those of "
                "the others; Classification('subset') trains it among its own, as it is judged"
            ]
        return []

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The classes, int64 ``[B]``."""
        y = data.train.y
        if y.is_floating_point():
            raise DataError(
                f"Classification needs classes 0, 1, ... in y, not {y.dtype}: give integers, "
                "or take Regression, which predicts real numbers"
            )
        return y[index].long()

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:
        """Cross-entropy, among the classes of the subset or all of them."""
        if targets.shape != outputs.select(1, 0).shape:
            raise DataError(
                f"targets of shape {tuple(targets.shape)} do not fit outputs of shape "
                f"{tuple(outputs.shape)}: y holds one class per sample; flatten (S, 1) with .reshape(-1), "
                "turn one-hot into classes with .argmax(1)"
            )
        if int(targets.min()) < 0:
            raise DataError(f"class {int(targets.min())} in y, but classes are numbered from 0")
        if int(targets.max()) >= outputs.shape[1]:
            raise DataError(
                f"class {int(targets.max())} in y, but the network has {outputs.shape[1]} outputs, "
                "and classes count from 0"
            )
        if self._own_KC is not None:
            own = k if self.original is None else number(inputs).long()
            outputs = mask_logits(outputs, self._own_KC.to(outputs.device)[own])
        return F.cross_entropy(outputs, targets)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """Accuracy per ticket and their mean, by context."""
        classes_KC, own, of_all = classes_of(data, self.original or partition), {}, {}
        for k, name, index, outputs in self.by_subset(predict, partition):
            truth = data.test.y[index]
            closed = mask_logits(outputs, classes_KC[k])
            own[name] = float((closed.argmax(1) == truth).double().mean())
            of_all[name] = float((outputs.argmax(1) == truth).double().mean())
        found = mean_and_each("accuracy", own, "like_for_like")
        if differ(classes_KC):
            found += mean_and_each("accuracy_open", of_all, "like_for_like")
        return found


def _strange(y: Tensor) -> bool:
    return y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= MOST


def classes_of(data: Data, partition: Partition) -> Tensor:
    """Classes that each subset has in training, boolean ``[K, C]``."""
    return _held(data.train.y.long(), partition)


def labels_held(data: Data, partition: Partition) -> Tensor | None:
    """Labels, whatever they are, of each subset in training, boolean ``[K, C]``; None if not one each"""
    y = torch.as_tensor(data.train.y)
    if y.ndim != 1 or y.is_floating_point():
        return None
    labels, number_S = y.unique(return_inverse=True)
    return _held(number_S, partition) if len(labels) > 1 else None


def _held(y: Tensor, partition: Partition) -> Tensor:
    members_SK, C = partition.members["train"], int(y.max()) + 1
    return torch.stack([torch.bincount(y[mine].flatten(), minlength=C) > 0 for mine in members_SK.unbind(1)])


def differ(classes_KC: Tensor) -> bool:
    """True if some subsets have other classes than others."""
    return bool((classes_KC != classes_KC[0]).any())


def allowed(metadata: Mapping[str, Any], names: Sequence[str], x: Tensor | None = None) -> Tensor | None:
    """The classes with which tickets answer, by their metadata, boolean ``[B, C]``; None for all outputs.

    ``names`` are those of the ticket that answers each sample. A network for all subsets that is told which
    (``told`` in the metadata) reads it off the samples ``x``.
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
        raise DataError(
            f"class {known - 1} in y, but the network has {outputs.shape[1]} outputs, and classes count "
            "from 0"
        )
    wide = outputs.new_zeros(outputs.shape[:2], dtype=torch.bool)
    wide[:, :known] = classes.to(outputs.device)
    return outputs.masked_fill(~wide.view(*wide.shape, *[1] * (outputs.ndim - 2)), -torch.inf)
