"""The K trainings of a round: one after the other, in worker processes, or as one batch."""

from tombola.training.parallel.choose import Parallel, executor, settled
from tombola.training.parallel.turn import Executor, Training, Turn, TurnResult, Work

__all__ = ["Executor", "Parallel", "Training", "Turn", "TurnResult", "Work", "executor", "settled"]
