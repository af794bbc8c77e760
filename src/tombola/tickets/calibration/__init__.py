"""Probabilities one can act on: calibration, priors, thresholds, and one answer from K tickets."""

from tombola.tickets.calibration.calibration import Calibration, own_scores
from tombola.tickets.calibration.maps import (
    Bin,
    brier,
    calibration_error,
    estimated,
    log_odds,
    precision_at_recall,
    reliability,
    shifted,
    threshold,
)

__all__ = [
    "Bin",
    "Calibration",
    "brier",
    "calibration_error",
    "estimated",
    "log_odds",
    "own_scores",
    "precision_at_recall",
    "reliability",
    "shifted",
    "threshold",
]
