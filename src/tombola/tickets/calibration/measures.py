"""How good probabilities are: reliability, expected calibration error, Brier score. S samples, K classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tombola._utils.errors import CalibrationError


@dataclass(frozen=True)
class Bin:
    """A bar of a reliability diagram: samples whose probability lies in ``(lower, upper]``."""

    lower: float
    upper: float
    count: int
    predicted: float  # mean probability of these samples
    observed: float  # how often they were right


def reliability(p_S: Tensor, truth_S: Tensor, bins: int = 15) -> list[Bin]:
    """The reliability diagram of probabilities of yes, in bins of equal width; empty ones are left out.

    >>> found = reliability(torch.tensor([0.1, 0.9, 0.9]), torch.tensor([0, 1, 0]))
    >>> [(b.count, round(b.observed, 2)) for b in found]
    [(1, 0.0), (2, 0.5)]
    """
    p, true = _checked(p_S), truth_S.double()
    where = (p * bins).ceil().long().clamp(1, bins) - 1
    found = []
    for i in where.unique().tolist():
        inside = where == i
        means = float(p[inside].mean()), float(true[inside].mean())
        found.append(Bin(i / bins, (i + 1) / bins, int(inside.sum()), *means))
    return found


def calibration_error(p_S: Tensor, truth_S: Tensor, bins: int = 15) -> float:
    """Expected calibration error: the mean over samples of ``|predicted − observed|`` (arXiv 1706.04599).

    For several classes: of the probability of the answer, and whether it was right.

    >>> round(calibration_error(torch.tensor([0.8, 0.8]), torch.tensor([1, 0])), 3)
    0.3
    """
    found = reliability(p_S, truth_S, bins)
    return sum(b.count * abs(b.predicted - b.observed) for b in found) / len(p_S)


def brier(p: Tensor, truth: Tensor) -> float:
    """Mean squared error of probabilities ``[S]`` of yes; of ``[S, K]``, summed over classes ``truth [S]``.

    >>> brier(torch.tensor([1.0, 0.5]), torch.tensor([1, 0]))
    0.125
    """
    p = _checked(p)
    if p.ndim == 1:
        return float((p - truth.double()).square().mean())
    target = torch.nn.functional.one_hot(truth.long(), p.shape[1]).double()
    return float((p - target).square().sum(1).mean())


def _checked(p: Tensor) -> Tensor:
    p = p.detach().double()
    if not len(p) or not bool(((p >= 0) & (p <= 1)).all()):
        raise CalibrationError(
            "probabilities from 0 to 1 are needed, one sample at least: pass scores through a fit"
        )
    return p
