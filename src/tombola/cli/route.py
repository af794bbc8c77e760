"""``tombola route``: who answers where no context is given, measured in finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tombola._utils.errors import UsageError, unknown
from tombola.cli.options import Flag, Numbers, Words, apart
from tombola.cli.terminal import busy, err_console, runs_of, show_rows
from tombola.lab.evaluation.routed import SINGLE, defaults, measure
from tombola.lab.evaluation.routing_tables import tables
from tombola.lab.evaluation.summary import over_seeds
from tombola.lab.evaluation.world import LoadedRun, open_run
from tombola.lab.report.page import made_by
from tombola.lab.report.rows import Row
from tombola.tickets.routing import ROUTERS


def route(
    *paths: Path,
    router: Words = (),
    set: Words = (),
    method: str = "rtl",
    sparsity: Numbers = (),
    data: str | None = None,
    save: Path | None = None,
    keep: Path | None = None,
    write: Path | None = None,
    json: Flag = False,
) -> None:
    """Fit routers to the tickets of finished runs, and measure them against the oracle.

    Beside them stand a random choice, the ticket that serves all contexts best on validation data, the dense
    network and the single mask. The gap closed is (router - best fixed) / (oracle - best fixed).

    Example: tombola route runs/corruptions-quick --router prototype gate

    Parameters
    ----------
    paths: Path
        Run directories, or folders that hold some; seeds of one experiment are averaged.
    router: tuple[str, ...]
        Which routers; all that can be fitted to the task by default.
    set: tuple[str, ...]
        Options of the named routers, such as mix=2 or depth=3.
    method: str
        Whose tickets.
    sparsity: tuple[float, ...]
        At which sparsities; all that the runs have by default.
    data: str
        Where the data of the runs are, if they have moved.
    save: Path
        A folder for copies of the ticket files with the first router in them; the runs stay as they are.
    keep: Path
        A file routing.json for `tombola report`, which looks for it in a run and above.
    write: Path
        A Markdown page to put the tables into, with a JSON twin beside it.
    json: bool
        Print rows for machines instead of tables.
    """
    if set and not router:
        raise UsageError("--set changes the routers that are named: say which with --router")
    named = fitted_options(router, set)
    values: list[Row] = []
    for path in apart(runs_of(paths, "route"), "--save", save):
        loaded = open_run(path, data)
        for level in sparsity or loaded.sparsities(method):
            wanted = named or defaults(type(loaded.objective).__name__)
            values += _one(loaded, method, level, wanted, save)
    show_rows(over_seeds(values), tables, json, write, made_by("route"), keep)


def _one(
    loaded: LoadedRun, method: str, level: float, wanted: dict[str, dict[str, Any]], save: Path | None
) -> list[Row]:
    tickets = loaded.of_subsets(method, level)
    found = {name: loaded.tickets(name, 0.0 if name == "dense" else level) for name in SINGLE}
    single = {name: t for name, t in found.items() if t is not None}

    def on_progress(word: str) -> None:
        err_console.print(f"{loaded.path}: {method} at {level:.0%}, {word}", highlight=False, soft_wrap=True)

    with busy(f"{loaded.path}: {method} at {level:.0%}") as now:
        values, made = measure(loaded, tickets, wanted, single, on_progress, now)
    if save is not None:
        tickets.router = next(iter(made.values()))
        sys.stderr.write(f"{loaded.save(tickets, save, f'{method}-{level}')}\n")
    head = {"experiment": loaded.experiment, "preset": loaded.preset, "method": method, "sparsity": level}
    return [{**head, "seed": loaded.seed, **row} for row in values]


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
