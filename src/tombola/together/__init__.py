"""The K trainings of a round: one after the other, in worker processes, or as one batch."""

from tombola.together.choose import AtOnce, opened, settled
from tombola.together.turn import Asked, Training, Turned, Turns, Way

__all__ = ["Asked", "AtOnce", "Training", "Turned", "Turns", "Way", "opened", "settled"]
