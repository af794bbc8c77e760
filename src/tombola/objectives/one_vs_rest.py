"""One ticket per subset, each a binary classifier: in the subset, or in the rest?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import PartitionError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.layout import Layout
from tombola.objectives.objective import Metric, Objective, Predict, check_outputs, own_rows
from tombola.objectives.readings import over_subsets
from tombola.objectives.subset_softmax import SubsetSoftmax


class OneVsRest(Objective):
    """Balanced binary classification (the paper's CIFAR protocol).

    The network has one output per subset and ticket k is read at output k, so every method trains the
    same backbone with the same number of parameters; row k of the classifier belongs to ticket k.
    Only output k of ticket k is trained; its other outputs mean nothing.
    An epoch of ticket k holds its subset once and as many negatives, drawn afresh from the rest, in
    alternation: every batch of even size is balanced. Loss: binary cross-entropy.
    """

    context_is_answer = True

    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:
        """Positives and negatives in alternation, int64 ``[2 · |d_k|]``."""
        inside = partition.members["train"][:, k]
        positive, shared = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        if len(shared) == 0:
            raise PartitionError(f"subset {partition.names[k]!r} holds all samples: there is no rest")
        positive = positive[torch.randperm(len(positive), generator=generator)]
        negative = shared[torch.randperm(len(shared), generator=generator)]
        repeats = -(-len(positive) // len(negative))
        negative = negative.repeat(repeats)[: len(positive)]
        return torch.stack([positive, negative], 1).flatten()

    def epoch_size(self, partition: Partition, k: int) -> int:
        """Twice the subset."""
        return 2 * int(partition.members["train"][:, k].sum())

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """1 inside the subset, 0 outside, float ``[B]``."""
        return partition.members["train"][index, k].float()

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Binary cross-entropy at output k."""
        check_outputs(outputs, k + 1)
        return F.binary_cross_entropy_with_logits(outputs[:, k], targets)

    def trainable(self, shared: Layout, head: str | None, k: int) -> Tensor | None:
        """All but the classifier's rows of the other tickets (their gradient is always zero)."""
        return own_rows(shared, head, torch.arange(k + 1) == k)

    def single(self, partition: Partition) -> SubsetSoftmax:
        """One softmax over the subsets."""
        return SubsetSoftmax(partition)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:  # noqa: ARG002
        """Both readings; in the paper's, a ticket says yes above probability one half."""
        K = range(len(partition))
        scores = {s: torch.stack([predict(s, k)[:, k] for k in K], 1) for s in ("validation", "test")}
        return over_subsets(scores, scores["test"] > 0, partition)
