"""From scores to probabilities, one binary ticket at a time: temperature, Platt, isotonic. S samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import CalibrationError, unknown

KINDS = ("temperature", "platt", "isotonic")
State = dict[str, Tensor]


def fit(kind: str, score_S: Tensor, truth_S: Tensor) -> State:
    """What turns a ticket's scores into probabilities of yes, fitted on held-out samples.

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
    s, true = score_S.detach().double().cpu(), truth_S.cpu().bool()
    if not bool(torch.isfinite(s).all()):
        raise CalibrationError("scores are not finite: the ticket is broken")
    positive, negative = int(true.sum()), int((~true).sum())
    if min(positive, negative) == 0:
        raise CalibrationError(f"{positive} positives and {negative} negatives: calibration needs both")
    if kind == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # a second to import; ticket files are read without

        found = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
            s.numpy(), true.double().numpy()
        )
        return {"x": torch.from_numpy(found.X_thresholds_), "y": torch.from_numpy(found.y_thresholds_)}
    if kind == "temperature":
        shift = torch.tensor(positive / negative, dtype=torch.double).log()
        return {"a": _newton(s[:, None], true.double(), shift)[0], "b": shift}
    target = torch.where(true, (positive + 1) / (positive + 2), 1 / (negative + 2)).double()
    a, b = _newton(torch.stack([s, torch.ones_like(s)], 1), target, torch.zeros((), dtype=torch.double))
    return {"a": a, "b": b}


def apply(kind: str, state: State, score_S: Tensor) -> Tensor:
    """Probabilities of yes, double ``[S]``."""
    s = score_S.detach().double()
    if kind != "isotonic":
        return torch.sigmoid(s * state["a"].to(s) + state["b"].to(s))
    x, y = state["x"].to(s).contiguous(), state["y"].to(s)
    right = torch.searchsorted(x, s.contiguous()).clamp(1, max(len(x) - 1, 1))
    if len(x) == 1:
        return y.expand_as(s)
    left = right - 1
    share = ((s - x[left]) / (x[right] - x[left])).clamp(0, 1)
    return y[left] + share * (y[right] - y[left])


def _newton(inputs_SD: Tensor, target_S: Tensor, offset: Tensor, rounds: int = 100) -> Tensor:
    """Coefficients of highest likelihood of a logistic regression, by damped Newton steps, ``[D]``.

    Scores are scaled for the search; a tiny penalty keeps separable samples finite.
    """
    size = inputs_SD.abs().mean(0).clamp(min=1e-12)
    x, w = inputs_SD / size, torch.zeros(inputs_SD.shape[1], dtype=torch.double)
    ridge = 1e-6 * torch.eye(len(w), dtype=torch.double)

    def loss(w: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x @ w + offset, target_S) + 0.5e-6 * w.square().sum()

    for _ in range(rounds):
        p = torch.sigmoid(x @ w + offset)
        slope = x.T @ (p - target_S) / len(x) + 1e-6 * w
        curve = x.T @ (x * (p * (1 - p))[:, None]) / len(x) + ridge
        step, factor = torch.linalg.solve(curve, slope), 1.0
        while factor > 1e-8 and loss(w - factor * step) > loss(w):
            factor /= 2
        w = w - factor * step
        if float((factor * step).abs().max()) < 1e-10:
            break
    return w / size
