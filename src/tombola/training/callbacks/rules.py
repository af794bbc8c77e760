"""What happens while a ticket is trained in a round of the search: nothing, an early end, or moving masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from tombola._utils import spec
from tombola._utils.errors import UsageError

if TYPE_CHECKING:
    from tombola.settings import Settings
    from tombola.training.pruning_context import TicketContext
    from tombola.training.search import MakeCallback
    from tombola.training.trainer import Callback


class Rule(spec.Spec):
    """Base of the rules."""


@dataclass(frozen=True)
class EarlyBird(Rule):
    """End a training once distances of masks are below ``threshold``, ``patience`` of them in a row.

    Masks are drawn every ``every`` steps (`tombola.training.callbacks.early_bird`); by default after an epoch
    of the ticket, or a twentieth of the training where that is shorter.
    """

    form = "early_bird:{threshold}:{patience}[:{every}]"
    threshold: float
    patience: int
    every: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"the threshold is a distance in (0, 1]: got {self.threshold}")
        if self.patience < 1 or (self.every is not None and self.every < 1):
            raise UsageError(f"patience and every are at least 1: got {self.patience}, {self.every}")


@dataclass(frozen=True)
class Moving(Rule):
    """Every ``every`` steps move a share of the mask (`tombola.training.callbacks.dynamic_sparse`)."""

    share: float
    every: int
    by_gradient: ClassVar[bool]

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.every < 1:
            raise UsageError(f"the share is in (0, 1), every at least 1 step: got {self.share}, {self.every}")


class SET(Moving):
    """Moves to random places."""

    form, by_gradient = "set:{share}:{every}", False


class RigL(Moving):
    """Moves to where the gradient is largest."""

    form, by_gradient = "rigl:{share}:{every}", True


RULES: tuple[type[Rule], ...] = (EarlyBird, SET, RigL)


def parse(callback: str | spec.Spec) -> Rule | None:
    """A rule from its text, or itself; None from an empty one.

    >>> parse("early_bird:0.1:5"), str(RigL(0.3, 100)), parse("")
    (EarlyBird(threshold=0.1, patience=5, every=None), 'rigl:0.3:100', None)
    """
    return spec.parse(callback, RULES, "callback") if callback else None


def make_callback(settings: Settings, T: int) -> MakeCallback | None:
    """From a ticket in training to its `tombola.training.trainer.Callback`; None where nobody looks on.

    Args:
        settings: ``callback`` and ``granularity`` are read.
        T: steps of a round.
    """
    from tombola.training.callbacks.dynamic_sparse import Moves  # these two import the rules
    from tombola.training.callbacks.early_bird import StandStill

    rule = parse(settings.callback)

    def made(context: TicketContext, draw: Callable[[], Tensor]) -> Callback:
        if isinstance(rule, EarlyBird):
            return StandStill(rule, context, draw, str(settings.granularity), T)
        assert isinstance(rule, Moving)
        return Moves(rule, context, T)

    return made if rule else None
