"""Routers: what chooses the ticket where no context is given, one file each."""

from tombola.tickets.routing.context import ContextRouter
from tombola.tickets.routing.gate import GateRouter
from tombola.tickets.routing.mixing import mixed
from tombola.tickets.routing.prototype import PrototypeRouter
from tombola.tickets.routing.registry import ROUTERS, restored, router
from tombola.tickets.routing.routed import Routed
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
