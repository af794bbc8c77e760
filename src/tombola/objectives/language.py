"""Language: the next token, inside each subset; the context is given, the text is the answer.

Samples are packed blocks: ``x`` holds L token numbers, ``y`` the L that follow each of them.
Shape letters: S samples of a split, B batch, L tokens of a block, V vocabulary, K subsets (tickets).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import DataError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.metrics import MetricInfo, register_metric
from tombola.objectives.objective import InSubset, Metric, Predict, mean_and_each

IGNORED = -100  # a target that does not count, as in torch and transformers
_nats = partial(
    MetricInfo, format="number", higher_is_better=False, table="quality", headline=("",), by_subset=True
)
register_metric(_nats("nats", "Loss in nats per token", "nats", primary=True))
register_metric(_nats("nats_wrong", "Loss in nats per token under another subset's ticket", "nats, wrong"))


class NextToken(InSubset):
    """Cross-entropy of the next token, for logits ``[B, L, V]`` and ``y`` int64 ``[S, L]``.

    ``y`` is the token that follows each one of ``x``, -100 where there is none that counts. Networks of
    `transformers` give several outputs: ``NextToken(output="logits")``.

    Metrics, in nats per token over all test tokens of a subset, and their mean over subsets: ``nats`` of the
    ticket of the subset, and ``nats_wrong`` of the ticket of the next one (of the last one: the first), so
    that every ticket is the wrong one once.

    >>> logits, y = torch.zeros(1, 3, 4), torch.tensor([[2, 0, IGNORED]])
    >>> round(float(NextToken().loss(logits, y, 0, torch.empty(0))), 4)  # log 4
    1.3863
    """

    rows: ClassVar[int] = 4  # logits of a block are L · V numbers

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The next tokens, int64 ``[B, L]``."""
        y = data.train.y[index]
        if y.ndim != 2 or y.is_floating_point():
            raise DataError(
                f"NextToken needs the next token of each in y, int64 [samples, tokens], not {tuple(y.shape)} "
                f"{y.dtype}: cut blocks of L + 1 tokens, x=blocks[:, :-1] and y=blocks[:, 1:]"
            )
        return y.long()

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Cross-entropy, the mean over tokens that count."""
        _check(outputs, targets)
        return F.cross_entropy(outputs.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)

    def judged(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of every token, ``[B, L]``; NaN where the target does not count."""
        _check(outputs, y)
        logits, y = outputs.flatten(0, 1).float(), y.to(outputs.device)
        losses = F.cross_entropy(logits, y.flatten(), ignore_index=IGNORED, reduction="none").view_as(y)
        return losses.masked_fill(y == IGNORED, torch.nan)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:  # noqa: ARG002
        """``nats`` and, of tickets, ``nats_wrong``."""
        judged = self.original or partition
        K, names = len(judged), judged.names
        test = [judged.members["test"][:, k].nonzero()[:, 0] for k in range(K)]

        def nats(j: int, k: int) -> float:
            return float(predict("test", j, test[k]).double().nanmean())

        if self.original or K < 2:
            return mean_and_each("nats", {name: nats(0, k) for k, name in enumerate(names)})
        own, wrong = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for j in range(K):  # ticket by ticket: a large network is made once
            own[names[j]], wrong[names[j - 1]] = nats(j, j), nats(j, (j - 1) % K)
        return [*mean_and_each("nats", own), *mean_and_each("nats_wrong", wrong)]


def _check(outputs: Tensor, targets: Tensor) -> None:
    if outputs.ndim != 3 or outputs.shape[:2] != targets.shape:
        raise DataError(
            f"the network gives outputs of shape {tuple(outputs.shape)} for next tokens of shape "
            f"{tuple(targets.shape)}: logits [batch, tokens, vocabulary] are needed"
        )
