"""The interface of callbacks: what looks on while tickets are searched for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tombola.masks.maskset import MaskSet
from tombola.training.pruning_context import Pruner, TicketContext
from tombola.training.trainer import StepCallback

Record = Callable[..., None]  # takes the fields of a row


class Callback:
    """Every method may be left out."""

    def on_ticket(self, context: TicketContext, pruner: Pruner, keep: int, T: int) -> StepCallback | None:  # noqa: ARG002
        """Look into the T training steps of a ticket that will be cut to ``keep`` weights; None: do not."""
        return None

    def on_round_end(self, round: int, masks: MaskSet, record: Record) -> None:
        """Look at the masks after a round."""

    def state(self) -> dict[str, Any]:
        """The state that `restore` goes on from, as JSON can hold it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
