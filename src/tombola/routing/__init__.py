"""Routers: what chooses the ticket where no context is given, one file each."""

from tombola.routing.context import ContextRouter
from tombola.routing.gate import GateRouter
from tombola.routing.mixing import mixed
from tombola.routing.prototype import PrototypeRouter
from tombola.routing.registry import ROUTERS, restored, router
from tombola.routing.routed import Routed
from tombola.routing.router import Router
from tombola.routing.score import ScoreRouter
from tombola.routing.stream import Window, best_window
from tombola.routing.superposition import SuperpositionRouter

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
