"""Several labels per sample inside each subset: the context is given, the set of labels is the answer.

Shape letters: S samples of a split, B batch, C labels.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import DataError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.metrics import LIKE_FOR_LIKE, MetricInfo, register_metric
from tombola.objectives.objective import InSubset, Metric, Predict, check_shapes, means_and_each

_quality = partial(MetricInfo, table="quality", by_subset=True)
register_metric(_quality("f1_macro", "F1, macro", headline=(LIKE_FOR_LIKE,)))
register_metric(_quality("f1_micro", "F1, micro"))
register_metric(
    _quality(
        "mean_average_precision", "Mean average precision", "mAP", headline=(LIKE_FOR_LIKE,), primary=True
    )
)


class MultiLabel(InSubset):
    """Binary cross-entropy over C labels of ``y [S, C]``, each 0 or 1 (bool, integer or float).

    Metrics, of each ticket on the test samples of its own subset, and their mean: ``f1_macro``, the mean over
    labels of F1 at probability one half; ``f1_micro``, that of all decisions together; and
    ``mean_average_precision``, the mean over labels of the average precision. Labels for which a metric is
    not defined (F1: neither true nor said anywhere in the subset; average precision: never true) do not
    count, nor do subsets without any other.

    >>> outputs, y = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    >>> round(float(MultiLabel().loss(outputs, y, 0, torch.empty(0))), 4)
    0.6931
    """

    answer = "labels"
    router_score = "max_logit"  # Hendrycks et al., arXiv 1911.11132

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The labels, float ``[B, C]``."""
        y = data.train.y[index]
        if y.ndim != 2 or not bool(((y == 0) | (y == 1)).all()):
            raise DataError(
                f"MultiLabel needs 0 or 1 for each label in y, [samples, labels], not {tuple(y.shape)} "
                f"{y.dtype}: turn classes into F.one_hot(y), or take Regression for real numbers"
            )
        return y.float()

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Binary cross-entropy, the mean over samples and labels."""
        check_shapes(outputs, targets, "one output per label is needed")
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """F1 and mean average precision per ticket and their mean."""
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for _, name, index, outputs in self.by_subset(predict, partition):
            truth = data.test.y[index].bool()
            f1_C = f1(truth, outputs > 0)
            each = {
                "f1_macro": f1_C[~f1_C.isnan()].mean(),
                "f1_micro": f1(truth.reshape(-1, 1), outputs.reshape(-1, 1) > 0)[0],
                "mean_average_precision": average_precision(truth, outputs).mean(),
            }
            for metric, value in each.items():
                values[metric][name] = float(value)
        return means_and_each(values, LIKE_FOR_LIKE)


def f1(truth: Tensor, said: Tensor) -> Tensor:
    """F1 of each label, double ``[C]``, from booleans ``[B, C]``; NaN where nothing is true or said."""
    hits_C, errors_C = (truth & said).sum(0).double(), (truth ^ said).sum(0).double()
    return 2 * hits_C / (2 * hits_C + errors_C)


def average_precision(truth: Tensor, scores: Tensor) -> Tensor:
    """Average precision of each label that is ever true, double ``[<= C]``; inputs are ``[B, C]``."""
    from sklearn.metrics import average_precision_score  # a second to import

    kept = truth.any(0)
    pairs = zip(truth[:, kept].T.numpy(), scores[:, kept].double().T.numpy(), strict=True)
    return torch.tensor([average_precision_score(*pair) for pair in pairs], dtype=torch.double)
