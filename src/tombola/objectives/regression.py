"""Regression inside each subset: the context is given, real numbers are the answer.

Shape letters: S samples of a split, B batch, C targets.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import DataError, UsageError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.metrics import MetricInfo, register_metric
from tombola.objectives.objective import InSubset, Metric, Predict, check_shapes, means_and_each

Loss = Literal["mse", "mae", "huber"]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}

_quality = partial(MetricInfo, table="quality")
_error = partial(_quality, format="number", higher_is_better=False)
register_metric(_quality("r2", "R²", headline=("",), primary=True, by_subset=True))
register_metric(_error("mae", "MAE", headline=("",), by_subset=True))
register_metric(_error("rmse", "RMSE", by_subset=True))
register_metric(_quality("r2_at_*", "R² of {}", "R² of {}"))
register_metric(_error("mae_at_*", "MAE of {}", "MAE of {}"))
register_metric(_error("rmse_at_*", "RMSE of {}", "RMSE of {}"))


class Regression(InSubset):
    """Mean squared error, or another, against real targets ``y [S]`` or ``[S, C]`` on a scale of their own.

    The network is trained on ``(y - mean) / deviation``, both of each target over all training samples (a
    constant target is only centred), so that targets of any unit weigh alike and no output has to grow to
    the size of a price. Its raw outputs are therefore standardised: those of ``tickets(x)``, of a baked
    or an exported network. `TicketModel.predict` answers in the units of ``y``, by the scale that the ticket
    file holds, as ``metadata["scale"]``.

    Args:
        loss: ``mse``, ``mae`` or ``huber`` (squared up to one deviation), of standardised values.
        names: of the C targets, for metrics of each; their numbers by default.
        output: see `Objective`.

    Metrics, in the units of ``y``, of each ticket on the test samples of its own subset, and their mean over
    subsets: ``r2``, ``mae``, ``rmse``; of several targets their means over targets, and each by itself, as
    in ``mae_at_price``. R² compares with the mean of the subset's test targets. Where a target is constant
    there it is not defined: that target does not count, nor does a subset without any other.

    >>> task = Regression().of(Data.of(torch.rand(100, 2), torch.full((100,), 5.0)), None)
    >>> task.metadata()["scale"]
    {'mean': [5.0], 'deviation': [1.0]}
    """

    scale: tuple[Tensor, Tensor] | None = None  # of the data that it is `of`

    def __init__(
        self, loss: Loss = "mse", *, names: Sequence[str] = (), output: str | int | None = None
    ) -> None:
        super().__init__(output=output)
        if loss not in get_args(Loss):
            raise UsageError(f"loss is one of {', '.join(LOSSES)}: got {loss!r}; others go into Custom")
        if not isinstance(names, str) and not isinstance(names, Sequence):
            raise UsageError(f"names are those of the targets, a list of strings: got {names!r}")
        self.kind, self.names = loss, (names,) if isinstance(names, str) else tuple(names)

    def of(self, data: Data, partition: Partition) -> Self:  # noqa: ARG002
        """Knowing the scale of the targets.

        Raises:
            DataError: y is not one number per sample or target.
            UsageError: another number of names than of targets.
        """
        bound = copy.copy(self)
        bound.scale = self._scale(data)
        return bound

    def _scale(self, data: Data) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each target in training, double ``[C]`` each."""
        if self.scale is not None:
            return self.scale
        y_SC = _columns(data.train.y).double()
        if y_SC.ndim != 2:
            raise DataError(
                f"Regression needs y as [samples] or [samples, targets], not {tuple(data.train.y.shape)}: "
                "flatten what belongs to a sample with .flatten(1)"
            )
        if self.names and len(self.names) != y_SC.shape[1]:
            raise UsageError(f"{len(self.names)} names of targets, but y has {y_SC.shape[1]}: give one each")
        varies_C = y_SC.amax(0) > y_SC.amin(0)
        return y_SC.mean(0), torch.where(varies_C, y_SC.std(0, correction=0), 1.0)

    def choices(self) -> dict[str, str]:
        """The loss."""
        return {"loss": self.kind}

    def metadata(self) -> dict[str, Any]:
        """The scale as well, by which `in_units` gives answers."""
        if self.scale is None:
            return super().metadata()
        mean_C, deviation_C = self.scale
        return super().metadata() | {"scale": {"mean": mean_C.tolist(), "deviation": deviation_C.tolist()}}

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The standardised targets, float ``[B, C]``."""
        mean_C, deviation_C = self._scale(data)
        return ((_columns(data.train.y[index]).double() - mean_C) / deviation_C).to(torch.get_default_dtype())

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """The mean over samples and targets."""
        outputs_BC = _columns(outputs)
        check_shapes(outputs_BC, targets, "one output per target is needed")
        return LOSSES[self.kind](outputs_BC, targets.to(outputs_BC.dtype))

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """R², mean absolute and root mean squared error per ticket and their mean, then of each target."""
        mean_C, deviation_C = self._scale(data)
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for _, ticket, index, outputs in self.by_subset(predict, partition):
            answers_BC = _columns(outputs).double() * deviation_C + mean_C
            for name, value_C in errors(answers_BC, _columns(data.test.y[index]).double()).items():
                values[name][ticket] = float(value_C.nanmean())
                if len(value_C) > 1:
                    each = zip(self.names or range(len(value_C)), value_C.tolist(), strict=True)
                    for target, value in each:
                        values[f"{name}_at_{target}"][ticket] = value
        return means_and_each(values)


def _columns(y: Tensor) -> Tensor:
    """One target per sample as a column."""
    return y[:, None] if y.ndim == 1 else y


def errors(answers_BC: Tensor, truth_BC: Tensor) -> dict[str, Tensor]:
    """R², MAE and RMSE of each target ``[C]``; R² of a constant target is NaN.

    >>> errors(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[1.0], [2.0], [3.0]]))["r2"].tolist()
    [-1.0]
    """
    squares_BC = (answers_BC - truth_BC).square()
    around_C = (truth_BC - truth_BC.mean(0)).square().sum(0)
    varies_C = truth_BC.amax(0) > truth_BC.amin(0)
    return {
        "r2": torch.where(varies_C, 1 - squares_BC.sum(0) / around_C, torch.nan),
        "mae": (answers_BC - truth_BC).abs().mean(0),
        "rmse": squares_BC.mean(0).sqrt(),
    }


def in_units(outputs: Tensor, metadata: Mapping[str, Any]) -> Tensor:
    """Outputs in the units of the data, by the scale in the metadata of tickets; as they are without one.

    >>> in_units(torch.tensor([0.5]), {"scale": {"mean": [300000.0], "deviation": [80000.0]}}).tolist()
    [340000.0]
    """
    if "scale" not in metadata:
        return outputs
    mean_C, deviation_C = (
        torch.tensor(metadata["scale"][name], dtype=torch.double) for name in ("mean", "deviation")
    )
    found = outputs.double() * deviation_C + mean_C
    return found.to(torch.promote_types(outputs.dtype, torch.float32))  # half a precision has no prices
