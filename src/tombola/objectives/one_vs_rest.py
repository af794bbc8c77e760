"""Membership in a subset: one binary classifier each, or one network with a softmax over all of them.

Shape letters: S samples of a split, B batch, K subsets (tickets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import PartitionError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.layout import Layout
from tombola.objectives.classification import labels_held
from tombola.objectives.objective import Metric, Objective, Predict, check_outputs, own_rows

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class OneVsRest(Objective):
    """Balanced binary classification (the paper's CIFAR protocol).

    The network has one output per subset and ticket k is read at output k, so every method trains the
    same backbone with the same number of parameters; row k of the classifier belongs to ticket k.
    Only output k of ticket k is trained; its other outputs mean nothing.
    An epoch of ticket k holds its subset once and as many negatives, drawn afresh from the rest, in
    alternation: every batch of even size is balanced. Loss: binary cross-entropy.
    """

    answer = "subset"
    router_score = "own_output"
    context_is_answer = True

    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:
        """Positives and negatives in alternation, int64 ``[2 · |d_k|]``."""
        inside = partition.members["train"][:, k]
        positive, rest = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        if len(rest) == 0:
            raise PartitionError(f"subset {partition.names[k]!r} holds all samples: there is no rest")
        positive = positive[torch.randperm(len(positive), generator=generator)]
        negative = rest[torch.randperm(len(rest), generator=generator)]
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

    def trainable(self, shared: Layout, head: Sequence[str], k: int) -> Tensor | None:
        """All but the classifier's rows of the other tickets (their gradient is always zero)."""
        return own_rows(shared, head, torch.arange(k + 1) == k)

    def doubts(self, data: Data, partition: Partition) -> list[str]:
        """Real numbers in y, and classes of it that subsets share, are not what is asked for."""
        if data.train.y.is_floating_point():
            return [
                "OneVsRest does not use y, which holds real numbers: tickets learn to tell the subsets; "
                "Regression predicts y within a subset"
            ]
        held_KC = labels_held(data, partition)
        if held_KC is None or int(held_KC.sum(0).max()) < 2:
            return []
        return [
            "OneVsRest does not use y: tickets learn to tell the subsets, which share classes of y; "
            "Classification asks for y within a subset"
        ]

    def single(self, partition: Partition) -> SubsetSoftmax:
        """One softmax over the subsets."""
        return SubsetSoftmax(partition, output=self.output)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:  # noqa: ARG002
        """Both readings; in the paper's, a ticket says yes above probability one half."""
        K = range(len(partition))
        scores = {s: torch.stack([predict(s, k)[:, k] for k in K], 1) for s in ("validation", "test")}
        return over_subsets(scores, scores["test"] > 0, partition)


class SubsetSoftmax(Objective):
    """One network for all subsets, the single-mask counterpart: a softmax over the K subsets of ``original``.

    It is trained on all samples that belong to one.

    Loss: cross-entropy. Score of subset k: its log-odds against all others.
    """

    answer = "class"
    context_is_answer = True

    def __init__(self, original: Partition, *, output: str | int | None = None) -> None:
        super().__init__(output=output)
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


# -- evaluation: two readings of one score matrix ``scores_SK`` (high = belongs) ---------------------------

# The paper reads balanced binary heads at a neutral threshold and the single model at its argmax: two
# operating points, so their precision and recall cannot be compared. The second reading treats every method
# alike: areas under curves, thresholds chosen on validation data, and one multi-class answer from the scores,
# coupled by the same small model fitted on validation data.


def over_subsets(scores: Mapping[str, Tensor], yes_SK: Tensor, partition: Partition) -> list[Metric]:
    """All metrics of one-vs-rest decisions on the test split, per ticket and averaged (macro).

    Args:
        scores: ``validation`` and ``test`` scores ``[S, K]``.
        yes_SK: the paper's decisions on the test split, boolean ``[S, K]``.
        partition: who belongs to what.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # a second to import

    val, test = (scores[s].double().numpy() for s in ("validation", "test"))
    val_true, test_true = (partition.members[s].numpy() for s in ("validation", "test"))
    found: list[Metric] = []
    for k, name in enumerate(partition.names):
        for split, true in (("validation", val_true), ("test", test_true)):
            if true[:, k].all():
                raise PartitionError(
                    f"subset {name!r} holds all samples of the {split} split: no rest to tell"
                )
        threshold = best_threshold(val_true[:, k], val[:, k])
        chosen = decisions(test_true[:, k], test[:, k] >= threshold)
        areas = {
            "auc": float(roc_auc_score(test_true[:, k], test[:, k])),
            "average_precision": float(average_precision_score(test_true[:, k], test[:, k])),
        }
        paper = decisions(test_true[:, k], yes_SK[:, k].numpy())
        found += [Metric(m, v, "paper", name) for m, v in paper.items()]
        found += [Metric(m, v, "like_for_like", name) for m, v in {**chosen, **areas}.items()]
    return macro(found) + accuracies(val, val_true, test, test_true) + found


def macro(metrics: list[Metric]) -> list[Metric]:
    """The mean over tickets of each metric."""
    keys = dict.fromkeys((m.name, m.reading) for m in metrics)
    groups = {key: [m.value for m in metrics if (m.name, m.reading) == key] for key in keys}
    return [Metric(n, float(np.mean(values)), reading) for (n, reading), values in groups.items()]


def decisions(true: Bools, yes: Bools) -> dict[str, float]:
    """Balanced accuracy ``(TPR + TNR) / 2``, precision and recall; precision is 0 without a yes.

    >>> decisions(np.array([True, True, False, False]), np.array([True, False, False, False]))
    {'balanced_accuracy': 0.75, 'precision': 1.0, 'recall': 0.5}
    """
    hits = int((true & yes).sum())
    recall = hits / int(true.sum())
    rejected = int((~true & ~yes).sum()) / int((~true).sum())
    return {
        "balanced_accuracy": (recall + rejected) / 2,
        "precision": hits / max(int(yes.sum()), 1),
        "recall": recall,
    }


def best_threshold(true: Bools, scores: Floats) -> float:
    """The threshold of highest balanced accuracy; between two scores, so that it carries over."""
    from sklearn.metrics import roc_curve

    false_rate, true_rate, thresholds = roc_curve(true, scores, drop_intermediate=False)
    best = int(np.argmax(true_rate - false_rate))
    below = scores[scores < thresholds[best]]
    lower = float(below.max()) if len(below) else float(thresholds[best])
    return (float(thresholds[best]) + lower) / 2 if np.isfinite(thresholds[best]) else np.inf


def accuracies(val: Floats, val_true: Bools, test: Floats, test_true: Bools) -> list[Metric]:
    """Multi-class accuracy of samples in exactly one subset: coupled scores, and the plain argmax."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    fit, judge = (val_true.sum(1) == 1), (test_true.sum(1) == 1)
    if not judge.any() or val.shape[1] < 2:
        return []
    truth = test_true[judge].argmax(1)
    plain = float((test[judge].argmax(1) == truth).mean())
    metrics = [Metric("accuracy_argmax", plain, "like_for_like")]
    labels = val_true[fit].argmax(1)
    if len(np.unique(labels)) == val.shape[1]:
        scaler = StandardScaler().fit(val[fit])
        coupling = LogisticRegression(C=1.0, max_iter=1000).fit(scaler.transform(val[fit]), labels)
        coupled = float((coupling.predict(scaler.transform(test[judge])) == truth).mean())
        metrics.insert(0, Metric("accuracy", coupled, "like_for_like"))
    return metrics
