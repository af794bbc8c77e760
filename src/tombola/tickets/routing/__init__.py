"""Routers: parts that choose the ticket where no context is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tombola._utils.errors import RouterError, unknown
from tombola.tickets.routing.context import ContextRouter
from tombola.tickets.routing.linear import GateRouter, PrototypeRouter
from tombola.tickets.routing.routed import Routed, mixed
from tombola.tickets.routing.router import Router
from tombola.tickets.routing.score import ScoreRouter
from tombola.tickets.routing.stream import Window, best_window
from tombola.tickets.routing.superposition import SuperpositionRouter

__all__ = [
    "ROUTERS",
    "ContextRouter",
    "GateRouter",
    "PrototypeRouter",
    "Routed",
    "Router",
    "ScoreRouter",
    "SuperpositionRouter",
    "Window",
    "best_window",
    "mixed",
    "restored",
    "router",
]

ROUTERS: dict[str, type[Router]] = {
    kind.kind: kind for kind in (ContextRouter, PrototypeRouter, ScoreRouter, GateRouter, SuperpositionRouter)
}


def router(name: str, **options: Any) -> Router:
    """A router by its name, not yet fitted.

    >>> router("gate", mix=2).kind
    'gate'
    """
    if name not in ROUTERS:
        raise RouterError(unknown("router", name, ROUTERS))
    try:
        return ROUTERS[name](**options)
    except TypeError as error:
        raise RouterError(f"the {name} router has no such option ({error})") from None


def restored(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Router:
    """The router whose `Router.state` this is."""
    if metadata["kind"] not in ROUTERS:
        raise RouterError(unknown("router", metadata["kind"], ROUTERS) + ": the file is of a newer version")
    return ROUTERS[metadata["kind"]].restored(metadata, tensors)
