"""Who looks on while the rounds of a search train, by its settings."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tombola.during import EarlyBird, parse
from tombola.dynamic import Moves
from tombola.early_bird import StandStill
from tombola.evidence import TicketEvidence
from tombola.extract import Watcher
from tombola.problem import Watch
from tombola.settings import Settings


def watcher(settings: Settings, T: int) -> Watcher | None:
    """From a ticket in training to its `tombola.problem.Watch`; None where nobody looks on.

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
