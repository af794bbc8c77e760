"""Scores: a number per weight, low = prune first."""

from tombola.pruning.scores.criterion import Criterion, PruningContext, Score, needs_trajectory
from tombola.pruning.scores.registry import CRITERIA, parse, register

__all__ = ["CRITERIA", "Criterion", "PruningContext", "Score", "needs_trajectory", "parse", "register"]
