"""Scores: a number per weight, low = prune first. One file per criterion."""

from tombola.scoring.criterion import Criterion, Evidence, Score, needs_trajectory
from tombola.scoring.registry import CRITERIA, parse, register

__all__ = ["CRITERIA", "Criterion", "Evidence", "Score", "needs_trajectory", "parse", "register"]
