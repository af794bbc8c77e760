"""Probabilities of one-vs-rest tickets, each by itself: maps from scores, priors, thresholds, and measures.

Shape letters: S samples, K tickets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from tombola._utils import spec
from tombola._utils.errors import CalibrationError, UsageError, unknown

# scikit-learn takes a second to import, and ticket files are read without: it is imported where it is used.

KINDS = ("temperature", "platt", "isotonic")

# -- from scores to probabilities -------------------------------------------------------------------------


def fit(kind: str, score_S: Tensor, truth_S: Tensor) -> dict[str, Tensor]:
    """Fit the map from a ticket's scores to probabilities of yes, on held-out samples.

    - ``temperature``: ``σ(a s + b₀)``, b₀ the shift from a balanced training to these samples' prior: one
      number is fitted (arXiv 1706.04599, with the known shift of prior).
    - ``platt``: ``σ(a s + b)``, with the targets ``(n₊ + 1) / (n₊ + 2)`` and ``1 / (n₋ + 2)`` (Platt, 1999).
    - ``isotonic``: the monotone step function of least squared error, linear between its steps
      (scikit-learn); it needs about a thousand samples.

    Args:
        kind: one of these.
        score_S: log-odds of any scale, ``[S]``.
        truth_S: boolean ``[S]``.

    Raises:
        CalibrationError: an unknown kind, scores that are not finite, or samples of one kind only.

    >>> state = fit("platt", torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([False, False, True, True]))
    >>> p = apply("platt", state, torch.tensor([-1.0, 1.0]))
    >>> bool(p[0] < 0.5 < p[1])
    True
    """
    if kind not in KINDS:
        raise CalibrationError(unknown("calibration", kind, KINDS))
    s, true = score_S.detach().double().cpu().numpy(), truth_S.cpu().bool().numpy()
    if not np.isfinite(s).all():
        raise CalibrationError("scores are not finite: the ticket is broken")
    positive, negative = int(true.sum()), int((~true).sum())
    if min(positive, negative) == 0:
        raise CalibrationError(f"{positive} positives and {negative} negatives: calibration needs both")
    if kind == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        found = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(s, true.astype(float))
        return {"x": torch.from_numpy(found.X_thresholds_), "y": torch.from_numpy(found.y_thresholds_)}
    if kind == "temperature":
        b = float(np.log(positive / negative))
        (a,) = _logistic(s[:, None], true, b)
    else:
        target = np.where(true, (positive + 1) / (positive + 2), 1 / (negative + 2))
        a, b = _logistic(np.stack([s, np.ones_like(s)], 1), target)
    return {"a": torch.tensor(a, dtype=torch.double), "b": torch.tensor(b, dtype=torch.double)}


def apply(kind: str, state: dict[str, Tensor], score_S: Tensor) -> Tensor:
    """Probabilities of yes, double ``[S]``."""
    s = score_S.detach().double()
    if kind != "isotonic":
        return torch.sigmoid(s * state["a"].to(s) + state["b"].to(s))
    p = np.interp(s.cpu().numpy(), state["x"].cpu().numpy(), state["y"].cpu().numpy())
    return torch.from_numpy(p).to(s)


def _logistic(inputs_SD: np.ndarray, target_S: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Coefficients of highest likelihood of a logistic regression, ``[D]``.

    Scores are scaled for the search; a tiny penalty keeps separable samples finite.
    """
    size = np.abs(inputs_SD).mean(0).clip(min=1e-12)
    x = inputs_SD / size

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x @ w + offset
        value = float((np.logaddexp(0, logits) - target_S * logits).mean() + 0.5e-6 * w @ w)
        return value, x.T @ (expit(logits) - target_S) / len(x) + 1e-6 * w

    start, exact = np.zeros(x.shape[1]), {"gtol": 1e-12, "ftol": 1e-16}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=exact)
    coefficients: np.ndarray = found.x / size
    return coefficients


# -- priors -----------------------------------------------------------------------------------------------


def log_odds(p: Tensor) -> Tensor:
    """``log p − log(1 − p)``, finite: p is kept a hair within 0 and 1."""
    p = p.double().clamp(1e-12, 1 - 1e-12)
    return p.log() - (-p).log1p()


def shifted(logits_SK: Tensor, deployed_K: Tensor, trained_K: Tensor | float = 0.5) -> Tensor:
    """Log-odds under another prior: ``+ log(π / (1 − π)) − log(π_train / (1 − π_train))`` (Bayes' rule).

    At a prior of one in ten, what was trained at one half loses log 9 = 2.197.

    >>> round(float(shifted(torch.zeros(1, 1), torch.tensor([0.1]))), 3)
    -2.197
    """
    priors = deployed_K.double(), torch.as_tensor(trained_K, dtype=torch.double).expand_as(deployed_K)
    for prior_K in priors:
        if not bool(((prior_K > 0) & (prior_K < 1)).all()):
            raise CalibrationError(f"a prior lies between 0 and 1: got {prior_K.tolist()}")
    return logits_SK.double() + log_odds(priors[0]) - log_odds(priors[1])


def estimated(p_SK: Tensor, trained_K: Tensor | float = 0.5, rounds: int = 1000) -> Tensor:
    """The prior of unlabelled samples, by expectation maximisation (Saerens et al., Neural Comp. 14, 2002).

    Iterates ``p_i ∝ p_i π / π_train``, ``π ← mean p_i``, for each ticket and its rest.

    Args:
        p_SK: probabilities of yes at the prior of training, ``[S, K]``; they must be calibrated there.
        trained_K: that prior, a number or ``[K]``.
        rounds: at most so many; it ends where nothing moves.

    Returns:
        priors ``[K]``, double.
    """
    trained = torch.as_tensor(trained_K, dtype=torch.double).expand(p_SK.shape[1])
    logits, prior = log_odds(p_SK), trained.clone()
    for _ in range(rounds):
        before, prior = prior, torch.sigmoid(shifted(logits, prior, trained)).mean(0).clamp(1e-6, 1 - 1e-6)
        if float((prior - before).abs().max()) < 1e-10:
            break
    return prior


# -- thresholds -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target(spec.Spec):
    """The form of a threshold, and its beta, recall or precision."""

    form: str
    value: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.value <= (1 if "=" in self.form else 1e6):
            raise UsageError(f"the value is out of range: got {self.value}")


def parse(target: str) -> Target:
    """A target from its text; an error that names what there is.

    >>> parse("recall=0.8").value
    0.8
    """
    forms = ("half", "f{value}", "recall={value}", "precision={value}")
    try:
        return spec.parse(target, map(Target, forms), "target")
    except UsageError:
        raise CalibrationError(
            f"a threshold is for half, f1, f0.5, recall=0.8 or precision=0.5: got {target!r}"
        ) from None


def threshold(target: str, p_S: Tensor, truth_S: Tensor) -> float:
    """The probability from which on a ticket says yes, chosen on held-out samples.

    Args:
        target: ``half`` (0.5); ``f1``, ``f0.5``, ``f2`` (the highest F-beta); ``recall=0.8`` (the highest
            threshold with at least this recall); ``precision=0.5`` (the lowest threshold with at least this
            precision, so the highest recall; where none has it, that of the highest precision).
        p_S: probabilities ``[S]``.
        truth_S: boolean ``[S]``.

    Raises:
        CalibrationError: another target, or no positives.

    >>> p, true = torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([False, True, False, True])
    >>> [round(threshold(t, p, true), 2) for t in ("half", "recall=1", "precision=1", "f1")]
    [0.5, 0.4, 0.9, 0.4]
    """
    wanted = parse(target)
    if wanted.form == "half":
        return 0.5
    if not bool(truth_S.any()):
        raise CalibrationError("no positives among the held-out samples: a threshold cannot be chosen")
    precision, recall, thresholds = _curve(truth_S, p_S)
    precision, recall = precision[:-1], recall[:-1]  # the last has no threshold
    if wanted.form.startswith("f"):
        beta = wanted.value**2
        score = (1 + beta) * precision * recall / np.maximum(beta * precision + recall, 1e-12)
        return float(thresholds[int(np.argmax(score))])
    if wanted.form.startswith("recall"):
        return float(thresholds[np.flatnonzero(recall >= wanted.value)[-1]])
    enough = np.flatnonzero(precision >= wanted.value)
    return float(thresholds[enough[0] if len(enough) else int(np.argmax(precision))])


def precision_at_recall(score_S: Tensor, truth_S: Tensor, recall: float) -> float:
    """The highest precision among the points of the precision-recall curve with at least this recall.

    >>> precision_at_recall(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([False, True, False, True]), 0.5)
    1.0
    """
    p, r, _ = _curve(truth_S, score_S)
    return float(p[r >= recall].max())


def _curve(truth_S: Tensor, score_S: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.metrics import precision_recall_curve

    curve: tuple[np.ndarray, np.ndarray, np.ndarray] = precision_recall_curve(
        truth_S.bool().cpu().numpy(), score_S.detach().double().cpu().numpy()
    )
    return curve


# -- how good probabilities are ---------------------------------------------------------------------------


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
    return float((p - F.one_hot(truth.long(), p.shape[1])).square().sum(1).mean())


def _checked(p: Tensor) -> Tensor:
    p = p.detach().double()
    if not len(p) or not bool(((p >= 0) & (p <= 1)).all()):
        raise CalibrationError(
            "probabilities from 0 to 1 are needed, one sample at least: pass scores through a fit"
        )
    return p
