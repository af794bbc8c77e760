"""Multi-class classification inside each subset: the context is given, the class is the answer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola.data import Data
from tombola.errors import DataError
from tombola.objectives.objective import Metric, Objective, Predict
from tombola.partition import Partition


class Classification(Objective):
    """Cross-entropy over the classes of ``y``; an epoch of ticket k is its subset once.

    Metric: accuracy of each ticket on the test samples of its own subset, and their mean (every
    subset counts alike, whatever its size).
    """

    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:
        """The subset in a new order."""
        samples = partition.members["train"][:, k].nonzero()[:, 0]
        return samples[torch.randperm(len(samples), generator=generator)]

    def epoch_size(self, partition: Partition, k: int) -> int:
        """The size of the subset."""
        return int(partition.members["train"][:, k].sum())

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The classes, int64 ``[B]``."""
        y = data.train.y
        if y.is_floating_point():
            raise DataError(f"Classification needs classes 0, 1, ... in y, not {y.dtype}: give integers")
        return y[index].long()

    def loss(self, outputs: Tensor, targets: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """Cross-entropy."""
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
                f"class {int(targets.max())} in y, but the network has {outputs.shape[1]} outputs"
            )
        return F.cross_entropy(outputs, targets)

    def single(self, partition: Partition) -> Objective:
        """One network trained on the samples of all subsets, judged on each."""
        return _PooledClassification(partition)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """Accuracy per ticket and their mean, by context."""
        return _accuracy_by_subset(predict, data, partition, own=True)


class _PooledClassification(Classification):
    def __init__(self, original: Partition) -> None:
        self.original = original
        self._samples = original.members["train"].any(1).nonzero()[:, 0]

    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return self._samples[torch.randperm(len(self._samples), generator=generator)]

    def epoch_size(self, partition: Partition, k: int) -> int:  # noqa: ARG002
        return len(self._samples)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:  # noqa: ARG002
        return _accuracy_by_subset(predict, data, self.original, own=False)


def _accuracy_by_subset(predict: Predict, data: Data, partition: Partition, own: bool) -> list[Metric]:
    values: list[Metric] = []
    for k, name in enumerate(partition.names):
        right = predict("test", k if own else 0).argmax(1) == data.test.y
        inside = partition.members["test"][:, k]
        values.append(Metric("accuracy", float(right[inside].double().mean()), "like_for_like", name))
    mean = sum(m.value for m in values) / len(values)
    return [Metric("accuracy", mean, "like_for_like"), *values]
