"""Who looks on while the rounds of a search train, by its settings."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tombola.settings import Settings
from tombola.training.callbacks.dynamic_sparse import Moves
from tombola.training.callbacks.early_bird import StandStill
from tombola.training.callbacks.rules import EarlyBird, parse
from tombola.training.pruning_context import TicketEvidence
from tombola.training.search import Watcher
from tombola.training.trainer import Watch


def watcher(settings: Settings, T: int) -> Watcher | None:
    """From a ticket in training to its `tombola.training.trainer.Watch`; None where nobody looks on.

    Args:
        settings: ``during`` and ``granularity`` are read.
        T: steps of a round.
    """
    rule = parse(settings.during)
    if rule is None:
        return None

    def made(evidence: TicketEvidence, draw: Callable[[], Tensor]) -> Watch:
        if isinstance(rule, EarlyBird):
            return StandStill(rule, evidence, draw, settings.granularity, T)
        return Moves(rule, evidence, T)

    return made
