"""``tombola route``: who answers where no context is given, measured in finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tombola._utils.errors import UsageError, unknown
from tombola.cli.fitted_options import FittedOptions
from tombola.cli.options import Words
from tombola.cli.terminal import busy, say_aside
from tombola.lab.evaluation.router_evaluator import SINGLE, defaults, measure
from tombola.lab.evaluation.tables import Values, routing_tables
from tombola.tickets.routing import ROUTERS


def route(
    *paths: Path,
    router: Words = (),
    set: Words = (),
    options: FittedOptions = FittedOptions(),  # noqa: B008
) -> None:
    """Fit routers to the tickets of finished runs, and measure them against the oracle.

    Beside them stand a random choice, the ticket that serves all contexts best on validation data, the dense
    network and the single mask. The gap closed is (router - best fixed) / (oracle - best fixed).

    Example: tombola route runs/corruptions-quick --router prototype gate

    Args:
        paths: Run directories, or folders that hold some; seeds of one experiment are averaged.
        router: Which routers; all that can be fitted to the task by default.
        set: Options of the named routers, such as mix=2 or depth=3.
    """
    if set and not router:
        raise UsageError("--set changes the routers that are named: say which with --router")
    named = fitted_options(router, set)
    values: Values = []
    for loaded in options.runs(paths, "route"):
        for sparsity, tickets in options.tickets(loaded):
            where = f"{loaded.path}: {options.method} at {sparsity:.0%}"
            others = {n: loaded.tickets(n, 0.0 if n == "dense" else sparsity) for n in SINGLE}
            single = {name: network for name, network in others.items() if network is not None}

            def on_progress(word: str, where: str = where) -> None:
                say_aside(f"{where}, {word}")

            with busy(where) as now:
                wanted = named or defaults(loaded.objective)
                found, made = measure(loaded, tickets, wanted, single, on_progress, now)
            values += [{**options.head(loaded, sparsity), **row} for row in found]
            if options.save is not None:
                tickets.router = next(iter(made.values()))
            options.saved(loaded, tickets, sparsity)
    options.show(values, routing_tables, "route")


def fitted_options(names: Sequence[str], changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options ``NAME=VALUE`` of each of these routers, which must be some that are fitted."""
    for name in names:
        if name not in ROUTERS or not ROUTERS[name].needs_fit:
            raise UsageError(unknown("router to fit", name, [n for n, r in ROUTERS.items() if r.needs_fit]))
    return {name: dict(_option(change) for change in changes) for name in names}


def _option(change: str) -> tuple[str, Any]:
    name, sign, value = change.partition("=")
    if not sign or not name:
        raise UsageError(f"--set takes NAME=VALUE, such as mix=2: got {change!r}")
    return name, yaml.safe_load(value)
