"""Multi-class classification inside each subset: the context is given, the class is the answer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola.data import Data
from tombola.errors import DataError
from tombola.objectives.in_subset import InSubset, mean_and_each
from tombola.objectives.objective import Metric, Predict
from tombola.partition import Partition


class Classification(InSubset):
    """Cross-entropy over the classes of ``y``.

    Metrics, of each ticket on the test samples of its own subset, and their mean: ``accuracy`` among
    the classes that the subset has in training, which whoever knows the context knows, for single
    networks as for tickets; and, where subsets hold different classes, ``accuracy_open`` among all
    classes. The second favours tickets, which never saw the classes of other subsets.
    """

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The classes, int64 ``[B]``."""
        y = data.train.y
        if y.is_floating_point():
            raise DataError(f"Classification needs classes 0, 1, ... in y, not {y.dtype}: give integers")
        return y[index].long()

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
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

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """Accuracy per ticket and their mean, by context."""
        judged = self.original or partition
        among, of_all, classes = {}, {}, set()
        for k, name, index, outputs in self.by_subset(predict, partition):
            truth = data.test.y[index]
            known = data.train.y[judged.members["train"][:, k]].unique().long()
            classes.add(tuple(known.tolist()))
            closed = torch.full_like(outputs, -torch.inf).index_copy(1, known, outputs[:, known])
            among[name] = float((closed.argmax(1) == truth).double().mean())
            of_all[name] = float((outputs.argmax(1) == truth).double().mean())
        found = mean_and_each("accuracy", among, "like_for_like")
        if len(classes) > 1:
            found += mean_and_each("accuracy_open", of_all, "like_for_like")
        return found
