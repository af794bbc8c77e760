"""What is fitted to tickets, a router and a calibration, into the ticket file and out of it."""

from __future__ import annotations

from typing import Any, Protocol, cast

from torch import nn

from tombola._utils.errors import TombolaError
from tombola.tickets.calibration import Calibration
from tombola.tickets.files import Parts
from tombola.tickets.routing import Router, restored
from tombola.tickets.routing.router import Tickets, fingerprint_of


class Fitted(Tickets, Protocol):
    """Tickets that may have both."""

    router: Router | None
    calibration: Calibration | None


class Holder(nn.Module):
    """Holds a router and a calibration, each fitted on the tickets that hold it.

    Raises:
        TombolaError: something else is set, or what was fitted on other tickets.
    """

    _router: Router | None = None
    _calibration: Calibration | None = None

    @property
    def router(self) -> Router | None:
        """Chooses the ticket where none is named (`tombola.routing`)."""
        return self._router

    @router.setter
    def router(self, router: Router | None) -> None:
        self._check("router", router, Router)
        self._router = router

    @property
    def calibration(self) -> Calibration | None:
        """Makes probabilities of scores (`tombola.calibration`)."""
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        self._check("calibration", calibration, Calibration)
        self._calibration = calibration

    def _check(self, name: str, part: Any, kind: type) -> None:
        if part is None:
            return
        if not isinstance(part, Router | Calibration) or not isinstance(part, kind):
            got = f"the class {part.__name__} itself" if isinstance(part, type) else type(part).__name__
            raise TombolaError(f"tickets.{name} is a {kind.__name__} or None: got {got}")
        if not _fits(part, cast(Tickets, self)):
            raise TombolaError(f"the {name} was fitted on other tickets: fit it on these")


def _fits(part: Router | Calibration, tickets: Tickets) -> bool:
    """Whether it was fitted on these tickets as they are now, or needs no fitting."""
    return part.made_for in (None, fingerprint_of(tickets))


def states(tickets: Fitted) -> Parts:
    """The parts of the ticket file.

    Raises:
        TombolaError: a part was fitted on other tickets, or on these before they changed.
    """
    found = {"router": tickets.router, "calibration": tickets.calibration}
    for name, part in found.items():
        if part is not None and not _fits(part, tickets):
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
    own = fingerprint_of(tickets)
    if tickets.router is None and others.router is not None and others.router.made_for in (None, own):
        tickets.router = others.router
    calibration = others.calibration
    if tickets.calibration is None and calibration is not None and calibration.made_for in (None, own):
        tickets.calibration = calibration
