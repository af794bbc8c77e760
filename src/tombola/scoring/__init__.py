"""Scores: a number per weight, low = prune first. One file per criterion."""

from tombola.scoring.magnitude import magnitude
from tombola.scoring.random import random

__all__ = ["magnitude", "random"]
