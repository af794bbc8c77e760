"""Evaluation protocols: two readings of one score matrix ``scores_SK`` (high = belongs).

The paper reads balanced binary heads at a neutral threshold and the single model at its argmax: two
operating points, so their precision and recall cannot be compared. The second reading treats every
method alike: areas under curves, thresholds chosen on validation data, and one multi-class answer
from the scores, coupled by the same small model fitted on validation data. Shape letters: S samples,
K subsets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import PartitionError
from tombola.data.partition import Partition
from tombola.objectives.objective import Metric

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


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
    """The threshold of highest balanced accuracy; between two scores, so that it carries over.

    >>> best_threshold(np.array([False, False, True]), np.array([0.0, 1.0, 2.0]))
    1.5
    """
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
