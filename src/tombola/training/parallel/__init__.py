"""The K trainings of a round: one after the other, in worker processes, or as one batch."""

from tombola.training.parallel.choose import AtOnce, executor, settled
from tombola.training.parallel.turn import Executor, Training, Turn, TurnResult, Work

__all__ = ["AtOnce", "Executor", "Training", "Turn", "TurnResult", "Work", "executor", "settled"]
