"""One network for all subsets: which subset is it? The single-mask counterpart of one-vs-rest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import PartitionError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.objective import Metric, Objective, Predict, check_outputs
from tombola.objectives.readings import over_subsets


class SubsetSoftmax(Objective):
    """Softmax over the K subsets of ``original``, trained on all samples that belong to one.

    Loss: cross-entropy. Score of subset k: its log-odds against all others.
    """

    context_is_answer = True

    def __init__(self, original: Partition) -> None:
        if len(original) < 2:
            raise PartitionError(
                "a softmax over one subset has nothing to tell apart: one network for all data needs two "
                "subsets or more, or the Classification objective"
            )
        train_SK = original.members["train"]
        if int(train_SK.sum(1).max()) > 1:
            raise PartitionError(
                "subsets overlap, so a softmax over them has no single right answer; compare RTL with "
                "imp_per_subset, or use the Classification objective"
            )
        self.original = original
        self._samples = train_SK.any(1).nonzero()[:, 0]
        self._target_S = train_SK.int().argmax(1)

    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """All samples of all subsets, in a new order."""
        return self._samples[torch.randperm(len(self._samples), generator=generator)]

    def epoch_size(self, partition: Partition, k: int) -> int:  # noqa: ARG002
        """All samples of all subsets."""
        return len(self._samples)

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The number of the subset, int64 ``[B]``."""
        return self._target_S[index]

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Cross-entropy over the subsets."""
        check_outputs(outputs, len(self.original))
        return F.cross_entropy(outputs[:, : len(self.original)], targets)

    def single(self, partition: Partition) -> SubsetSoftmax:  # noqa: ARG002
        """Itself."""
        return self

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:  # noqa: ARG002
        """Both readings; in the paper's, the argmax is the only yes."""
        K = len(self.original)
        scores = {s: self.log_odds(predict(s, 0)[:, :K]) for s in ("validation", "test")}
        yes = F.one_hot(scores["test"].argmax(1), K).bool()
        return over_subsets(scores, yes, self.original)

    @staticmethod
    def log_odds(logits_SK: Tensor) -> Tensor:
        """``log p_k − log(1 − p_k)`` of the softmax, ``[S, K]``; rises with p_k, comparable over samples."""
        K = logits_SK.shape[1]
        others = logits_SK[:, None, :].masked_fill(torch.eye(K, dtype=torch.bool), float("-inf"))
        return logits_SK - others.logsumexp(2)
