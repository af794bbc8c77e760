"""Who looks on while the rounds of a search train, by its settings."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tombola.settings import Settings
from tombola.training.callbacks.dynamic_sparse import Moves
from tombola.training.callbacks.early_bird import StandStill
from tombola.training.callbacks.rules import EarlyBird, parse
from tombola.training.pruning_context import TicketContext
from tombola.training.search import MakeCallback
from tombola.training.trainer import Callback


def make_callback(settings: Settings, T: int) -> MakeCallback | None:
    """From a ticket in training to its `tombola.training.trainer.Callback`; None where nobody looks on.

    Args:
        settings: ``callback`` and ``granularity`` are read.
        T: steps of a round.
    """
    rule = parse(settings.callback)
    if rule is None:
        return None

    def made(context: TicketContext, draw: Callable[[], Tensor]) -> Callback:
        if isinstance(rule, EarlyBird):
            return StandStill(rule, context, draw, settings.granularity, T)
        return Moves(rule, context, T)

    return made
