"""Probabilities one can act on: calibration, priors, thresholds, and one answer from K tickets."""

from tombola.tickets.calibration.calibration import Calibration, own_scores
from tombola.tickets.calibration.measures import Bin, brier, calibration_error, reliability
from tombola.tickets.calibration.prior import estimated, log_odds, shifted
from tombola.tickets.calibration.thresholds import precision_at_recall, threshold

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
