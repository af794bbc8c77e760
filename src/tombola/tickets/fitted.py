"""Routers and calibrations as parts of tickets, and what they have to know of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from tombola import objectives
from tombola._utils.batch import Batch, part_of
from tombola._utils.errors import CalibrationError, RouterError, TicketFileError, TombolaError, warn
from tombola._utils.io import digest
from tombola.objectives.objective import Answer
from tombola.tickets.files import REMEDY, Parts

if TYPE_CHECKING:
    from tombola.data.dataset import Data
    from tombola.tickets.calibration import Calibration
    from tombola.tickets.model import TicketModel
    from tombola.tickets.routing import Router

Tickets: TypeAlias = "TicketModel"
# Of a router, a calibration: what JSON can hold, and tensors.
State = tuple[dict[str, Any], dict[str, Tensor]]


_KINDS = {"router": "tickets.routing:Router", "calibration": "tickets.calibration:Calibration"}


PARTS = tuple(_KINDS)


class Holder(nn.Module):
    """Holds a router and a calibration, each fitted on the tickets that hold it; neither is imported for it.

    Attributes:
        router: chooses the ticket where none is named (`tombola.routing`).
        calibration: makes probabilities of scores (`tombola.calibration`).

    Raises:
        TombolaError: something else is set, or what was fitted on other tickets.
    """

    router: Router | None = None
    calibration: Calibration | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _KINDS and value is not None:
            kind: type = resolve_name(f"tombola.{_KINDS[name]}")
            if not isinstance(value, kind):
                got = (
                    f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__
                )
                raise TombolaError(f"tickets.{name} is a {kind.__name__} or None: got {got}")
            if not _fits(value, self):
                raise TombolaError(f"the {name} was fitted on other tickets: fit it on these")
        super().__setattr__(name, value)


def _fits(part: Any, tickets: Any) -> bool:
    return part.made_for is None or part.made_for == fingerprint_of(tickets)


def states(tickets: Tickets) -> Parts:
    """The parts of the ticket file; an error where one was fitted on other tickets."""
    found = {name: part for name in PARTS if (part := getattr(tickets, name)) is not None}
    for name, part in found.items():
        if not _fits(part, tickets):
            raise TombolaError(f"the {name} was fitted on other tickets: fit it on these, or set it to None")
    return {name: part.state() for name, part in found.items()}


def restore(tickets: Tickets, parts: Parts, x: Batch | None = None) -> None:
    """Give tickets what was stored with them; the router is tried on inputs ``x`` if they are known.

    Raises:
        TicketFileError: it is damaged.
    """
    for name, (known, tensors) in parts.items():
        if name not in _KINDS:
            continue
        try:
            setattr(tickets, name, _restored(name, known, tensors))
            if name == "router" and x is not None and tickets.router and tickets.router.needs_fit:
                tickets.route(x)
        except TombolaError:
            raise
        except Exception as error:  # of a part that was edited: anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise TicketFileError(f"the {name} in the file is damaged ({reason}): {REMEDY}") from None


def _restored(name: str, known: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if name == "router":
        from tombola.tickets.routing import restored

        return restored(known, tensors)
    from tombola.tickets.calibration import Calibration

    return Calibration.restored(known, tensors)


def take_over(tickets: Tickets, others: Tickets) -> None:
    """Give tickets what the same tickets, from another file, have and they have not."""
    for name in PARTS:
        part = getattr(others, name)
        if getattr(tickets, name) is None and part is not None and _fits(part, tickets):
            setattr(tickets, name, part)


def fingerprint_of(tickets: Tickets) -> str:
    """A hash of tickets as they act, for what is made for them; weights that none keeps do not count."""
    weights_N, _, _ = tickets.state(tickets.names[0])
    private = tickets.private.unflatten(tickets.private_KP)
    private |= tickets.statistics.unflatten(tickets.statistics_KS)
    acting = {f"private.{name}": t.detach().float().cpu() for name, t in private.items()}
    kept = weights_N.detach().float().cpu()[tickets.owned_N.cpu()]
    return digest({"weights": kept, "masks": tickets.masks_KN.cpu(), **acting})


def answer_of(tickets: Tickets) -> Answer:
    """The reading of the outputs of these tickets (`tombola.objectives.Objective.answer`)."""
    known = tickets.metadata
    if "answer" in known:
        return known["answer"]
    # A file of an older version: it names the objective of tickets, and the task of a network for all data.
    answer = _objective(tickets).answer
    task = known.get("task", "own" if len(tickets.names) > 1 else "single")
    return "class" if answer == "subset" and task.startswith("single") else answer


def router_score_of(tickets: Tickets) -> str:
    """The sign that a ticket is at home, in its outputs (`tombola.objectives.Objective.router_score`)."""
    return str(tickets.metadata.get("router_score", _objective(tickets).router_score))


def read(tickets: Tickets, outputs: Any) -> Tensor:
    """The part of the outputs that their objective reads (`tombola.objectives.Objective.output`)."""
    return part_of(outputs, tickets.metadata.get("output"))


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


def without(tickets: Tickets, name: str, left: Tickets) -> None:
    """Give those that are left what was fitted to tickets, without its share of one.

    Left out is what was fitted to all together: the others' numbers would tell of the one that is gone.
    """
    for kind in PARTS:
        if (part := getattr(tickets, kind)) is not None:
            setattr(left, kind, made := part.without(left, name))
            if made is None:
                _left_out(kind, part, f"was fitted with {name!r}")


def extend(tickets: Tickets, grown: Tickets, data: Data) -> None:
    """Give tickets, the last of them grown on ``data``, what those before had, where that data is enough."""
    for name in PARTS:
        if (part := getattr(tickets, name)) is None:
            continue
        made, reason = None, ""
        try:
            made = part.extended(grown, data)
        except (RouterError, CalibrationError) as error:
            reason = f" ({error})"
        setattr(grown, name, made)
        if made is None:
            _left_out(name, part, f"was fitted without {grown.names[-1]!r}{reason}")


def carry(tickets: Tickets, made: Tickets, why: str) -> None:
    """Give tickets that were made of these what fits any tickets; all else is left out, for this reason."""
    for name in PARTS:
        if (part := getattr(tickets, name)) is not None:
            if part.made_for is None and getattr(made, name) is None:
                setattr(made, name, part)
            elif part is not getattr(made, name):
                _left_out(name, part, why)


def _left_out(name: str, part: Router | Calibration, why: str) -> None:
    """Say of what was fitted to tickets that it is not carried along, and how it is made again."""
    known, plain = part.options, type(part)().options
    options = ", ".join(f"{n}={v!r}" for n, v in known.items() if v != plain.get(n) and n != "pairs")
    how = f"tb.{'routing' if name == 'router' else name}.{type(part).__name__}({options})"
    if getattr(part, "needs_fit", True):
        how += ".fit(tickets, data, partition), on data of all tickets,"
        how += " or tombola route FILE --data DATA --ticket-column NAME" if name == "router" else ""
    warn(f"the {name} {why} and is left out: tickets.{name} = {how} makes another")


def renamed(part: Router | Calibration, now: Mapping[str, str]) -> Any:
    """What was fitted, for the same tickets under the names that they have now."""
    known, tensors = part.state()
    options = dict(known["options"])
    if "pairs" in options:  # from contexts to tickets
        options["pairs"] = [[value, now.get(name, name)] for value, name in options["pairs"]]
    facts = {**known, "options": options, "names": [now[name] for name in known["names"]]}
    return _restored("calibration" if "about" in known else "router", facts, tensors)
