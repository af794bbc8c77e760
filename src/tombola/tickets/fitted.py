"""What is fitted to tickets, a router and a calibration, and what it has to know of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from tombola import objectives
from tombola._utils.errors import TombolaError
from tombola.objectives.objective import Answer
from tombola.tickets.files import Parts, fingerprint

if TYPE_CHECKING:
    from tombola.tickets.calibration import Calibration
    from tombola.tickets.model import TicketModel
    from tombola.tickets.routing import Router

Tickets: TypeAlias = "TicketModel"
# Of a router, a calibration: what JSON can hold, and tensors.
State = tuple[dict[str, Any], dict[str, Tensor]]


class Holder(nn.Module):
    """Holds a router and a calibration, each fitted on the tickets that hold it; neither is imported for it.

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
        if router is not None:
            from tombola.tickets.routing import Router

            self._check("router", router, Router)
        self._router = router

    @property
    def calibration(self) -> Calibration | None:
        """Makes probabilities of scores (`tombola.calibration`)."""
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        if calibration is not None:
            from tombola.tickets.calibration import Calibration

            self._check("calibration", calibration, Calibration)
        self._calibration = calibration

    def _check(self, name: str, part: Any, kind: type) -> None:
        if not isinstance(part, kind):
            got = f"the class {part.__name__} itself" if isinstance(part, type) else type(part).__name__
            raise TombolaError(f"tickets.{name} is a {kind.__name__} or None: got {got}")
        if not _fits(part, self):
            raise TombolaError(f"the {name} was fitted on other tickets: fit it on these")


def _fits(part: Any, tickets: Any) -> bool:
    """Whether it was fitted on these tickets as they are now, or needs no fitting."""
    return part.made_for in (None, fingerprint_of(tickets))


def states(tickets: Tickets) -> Parts:
    """The parts of the ticket file.

    Raises:
        TombolaError: a part was fitted on other tickets, or on these before they changed.
    """
    found = {name: part for name in ("router", "calibration") if (part := getattr(tickets, name)) is not None}
    for name, part in found.items():
        if not _fits(part, tickets):
            raise TombolaError(f"the {name} was fitted on other tickets: fit it on these, or set it to None")
    return {name: part.state() for name, part in found.items()}


def restore(tickets: Tickets, parts: Parts) -> None:
    """Give tickets what was stored with them."""
    if "router" in parts:
        from tombola.tickets.routing import restored

        tickets.router = restored(*parts["router"])
    if "calibration" in parts:
        from tombola.tickets.calibration import Calibration

        tickets.calibration = Calibration.restored(*parts["calibration"])


def take_over(tickets: Tickets, others: Tickets) -> None:
    """Give tickets what the same tickets, from another file, have and they have not.

    What was fitted on other tickets is left behind.
    """
    for name in ("router", "calibration"):
        part = getattr(others, name)
        if getattr(tickets, name) is None and part is not None and _fits(part, tickets):
            setattr(tickets, name, part)


def fingerprint_of(tickets: Tickets) -> str:
    """The hash of tickets as they act (`tombola.tickets.files.fingerprint`)."""
    weights_N, _, _ = tickets.state(tickets.names[0])
    private = tickets.private.unflatten(tickets.private_KP)
    private |= tickets.statistics.unflatten(tickets.statistics_KS)
    return fingerprint(weights_N, tickets.masks_KN, private)


def answer_of(tickets: Tickets) -> Answer:
    """How the outputs of these tickets are read (`tombola.objectives.Objective.answer`)."""
    known = tickets.metadata
    if "answer" in known:
        return known["answer"]
    # A file of an older version: it names the objective of tickets, and the task of a network for all data.
    answer = _objective(tickets).answer
    task = known.get("task", "own" if len(tickets.names) > 1 else "single")
    return "class" if answer == "subset" and task.startswith("single") else answer


def router_score_of(tickets: Tickets) -> str:
    """What says of these outputs that a ticket is at home (`tombola.objectives.Objective.router_score`)."""
    return str(tickets.metadata.get("router_score", _objective(tickets).router_score))


def _objective(tickets: Tickets) -> type[objectives.Objective]:
    return getattr(objectives, tickets.metadata.get("objective", ""), objectives.Objective)


def output_of(tickets: Tickets, k: int) -> int:
    """The output that one-vs-rest ticket k was trained at: that of its subset, in any network."""
    return int(tickets.metadata.get("outputs", range(len(tickets.names)))[k])


@torch.enable_grad()
def minimised(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """The double vector of least loss that L-BFGS finds from ``start``."""
    found = start.double().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([found], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(found)
        value.backward()
        return value

    optimiser.step(closure)
    return found.detach()
