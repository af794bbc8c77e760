"""What is fitted to tickets, a router and a calibration, into the ticket file and out of it."""

from __future__ import annotations

from typing import Protocol

from tombola.calibration import Calibration
from tombola.errors import TombolaError
from tombola.routing import Router, restored
from tombola.routing.router import Tickets, print_of
from tombola.storage import Parts


class Fitted(Tickets, Protocol):
    """Tickets that may have both."""

    router: Router | None
    calibration: Calibration | None


def states(tickets: Fitted) -> Parts:
    """The parts of the ticket file.

    Raises:
        TombolaError: a part was fitted on other tickets, or on these before they changed.
    """
    found = {"router": tickets.router, "calibration": tickets.calibration}
    for name, part in found.items():
        if part is not None and part.made_for not in (None, print_of(tickets)):
            raise TombolaError(f"the {name} was fitted on other tickets: fit it on these, or set it to None")
    return {name: part.state() for name, part in found.items() if part is not None}


def restore(tickets: Fitted, parts: Parts) -> None:
    """Give tickets what was stored with them."""
    if "router" in parts:
        tickets.router = restored(*parts["router"])
    if "calibration" in parts:
        tickets.calibration = Calibration.restored(*parts["calibration"])


def take_over(tickets: Fitted, others: Fitted) -> None:
    """Give tickets what the same tickets, from another file, have and they have not.

    What was fitted on other tickets is left behind.
    """
    own = print_of(tickets)
    if tickets.router is None and others.router is not None and others.router.made_for in (None, own):
        tickets.router = others.router
    calibration = others.calibration
    if tickets.calibration is None and calibration is not None and calibration.made_for in (None, own):
        tickets.calibration = calibration
