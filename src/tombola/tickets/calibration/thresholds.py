"""Where a ticket says yes: thresholds for a chosen F-beta, recall or precision. S samples."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import CalibrationError

_TARGET = re.compile(r"half|f(?P<beta>\d*\.?\d+)|(?P<name>recall|precision)=(?P<value>\d*\.?\d+)")


def parse(target: str) -> re.Match[str]:
    """The parts of a target; an error that names what there is.

    >>> parse("recall=0.8")["value"]
    '0.8'
    """
    found = _TARGET.fullmatch(target)
    if found is None or (found["value"] and not 0 < float(found["value"]) <= 1) or found["beta"] == "0":
        raise CalibrationError(
            f"a threshold is for half, f1, f0.5, recall=0.8 or precision=0.5: got {target!r}"
        )
    return found


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
    found = parse(target)
    if target == "half":
        return 0.5
    true = truth_S.bool().cpu().numpy()
    if not true.any():
        raise CalibrationError("no positives among the held-out samples: a threshold cannot be chosen")
    precision, recall, thresholds = _curve(true, p_S.detach().double().cpu().numpy())
    precision, recall = precision[:-1], recall[:-1]  # the last has no threshold
    if found["beta"]:
        beta = float(found["beta"]) ** 2
        score = (1 + beta) * precision * recall / np.maximum(beta * precision + recall, 1e-12)
        return float(thresholds[int(np.argmax(score))])
    wanted = float(found["value"])
    if found["name"] == "recall":
        return float(thresholds[np.flatnonzero(recall >= wanted)[-1]])
    enough = np.flatnonzero(precision >= wanted)
    return float(thresholds[enough[0] if len(enough) else int(np.argmax(precision))])


def precision_at_recall(score_S: Tensor, truth_S: Tensor, recall: float) -> float:
    """The highest precision among the points of the precision-recall curve with at least this recall.

    >>> precision_at_recall(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([False, True, False, True]), 0.5)
    1.0
    """
    p, r, _ = _curve(truth_S.bool().numpy(), torch.as_tensor(score_S).double().numpy())
    return float(p[r >= recall].max())


def _curve(truth_S: np.ndarray, score_S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.metrics import precision_recall_curve  # a second to import; ticket files are read without

    curve: tuple[np.ndarray, np.ndarray, np.ndarray] = precision_recall_curve(truth_S, score_S)
    return curve
