"""``tombola route``: who answers where no context is given, in finished runs or by a router for a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tombola._utils import io
from tombola._utils.errors import RouterError, UsageError, unknown
from tombola.cli.fitted_options import FittedOptions
from tombola.cli.network import network
from tombola.cli.options import Flag, Words, check_save
from tombola.cli.terminal import busy, say, say_aside
from tombola.lab.evaluation import file_router
from tombola.lab.evaluation.router_evaluator import SINGLE, defaults, measure
from tombola.lab.evaluation.tables import Values, routing_tables
from tombola.tickets.inputs import known
from tombola.tickets.model import load
from tombola.tickets.routing import ROUTERS
from tombola.tickets.routing import router as router_of


def route(
    *paths: Path,
    router: Words = (),
    set: Words = (),
    ticket_column: str | None = None,
    backbone: str | None = None,
    force: Flag = False,
    options: FittedOptions = FittedOptions(),  # noqa: B008
) -> None:
    """Fit routers to the tickets of finished runs and measure them, or give one to a ticket file.

    Beside the routers of a run stand a random choice, the ticket that serves all contexts best on validation
    data, the dense network and the single mask. The gap closed is (router - best fixed) / (oracle - best
    fixed).

    A ticket file gets a router that is fitted on --data, whose samples say which ticket is theirs; its
    accuracy is that on a part of them that is held out. The file is replaced at once or not at all:
    tombola route clinics.tickets --data patients.csv --ticket-column clinic

    Example: tombola route runs/corruptions-quick --router prototype gate

    Args:
        paths: Run directories, or folders that hold some; seeds of one experiment are averaged. Or one ticket
            file.
        router: Which routers; by default all that can be fitted to the task of a run, and prototype for a
            file.
        set: Options of the named routers, such as mix=2 or depth=3.
        ticket_column: For a file: the column of --data that names the ticket of each row. In a folder of
            pictures the folders name it.
        backbone: For a file: MODULE:NAME of the network, or of a function that makes it; by default that of
            the experiment that the ticket file or its run names.
        force: For a file: replace a router that is in it, or the file of --save that is there already.
    """
    if any(path.is_file() or path.suffix == ".tickets" for path in paths):
        _file(paths, router, set, ticket_column, backbone, force, options)
        return
    if ticket_column is not None or backbone is not None or force:
        raise UsageError("--ticket-column, --backbone and --force are for a ticket file: these are runs")
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


def _file(
    paths: Sequence[Path],
    names: Sequence[str],
    changes: Sequence[str],
    column: str | None,
    backbone: str | None,
    force: bool,
    options: FittedOptions,
) -> None:
    """A router for the tickets of a file, by data of its own."""
    if len(paths) > 1 or len(names) > 1:
        raise UsageError("a ticket file gets one router: give one file and one --router")
    if options.data is None:
        raise UsageError("a ticket file needs --data, samples that name their ticket: a table or a folder")
    if options != replace(FittedOptions(), data=options.data, save=options.save, json=options.json):
        raise UsageError("--method, --sparsity, --keep and --write are for runs: leave them out")
    ((name, how),) = fitted_options(names or ("prototype",), changes).items()
    file, save = paths[0].resolve(), options.save  # of a link, what it leads to
    check_save(save, file, options.data, force=force)
    with io.changing(file) if save is None else nullcontext():
        header = io.read_metadata(file)
        if save is None and "router" in header.get("parts", {}) and not force:
            raise UsageError(f"{file} has a router already: --force replaces it, --save FILE leaves it")
        metadata, before = header.get("facts", {}), file.stat().st_size
        tickets = load(file, network(file, metadata, backbone))
        found = file_router.fitted(
            tickets, *file_router.samples_of(options.data, column, known(metadata), tickets.names), name, how
        )
        tickets.router = found.router
        size = tickets.save(save or file)
    _say(save or file, found, before, size, options.json)


def _say(file: Path, found: file_router.Fitted, before: int, size: int, json: bool) -> None:
    made = {
        "file": str(file),
        "router": found.router.kind,
        "samples": found.samples,
        "routing_accuracy": found.accuracy,
        "routing_accuracy_each": found.each,
        "confidence": found.confidence,
        "numbers": found.router.numbers(),
        "stored": found.router.stored(),
        "bytes": size,
        "bytes_before": before,
    }
    worst = min(found.each, key=lambda name: found.each[name])
    say(
        f"{file}: the {found.router.kind} router sends {found.accuracy:.1%} of {found.samples['test']:,} "
        f"held-out samples to their own ticket; least of {worst}, {found.each[worst]:.1%}\n"
        f"it stores {made['stored']:,} numbers; {before:,} bytes are now {size:,}\n",
        made,
        json,
    )


def fitted_options(names: Sequence[str], changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options ``NAME=VALUE`` of each of these routers, which must be some that are fitted."""
    for name in names:
        if name not in ROUTERS or not ROUTERS[name].needs_fit:
            raise UsageError(unknown("router to fit", name, [n for n, r in ROUTERS.items() if r.needs_fit]))
    options = dict(_option(change) for change in changes)
    try:
        for name in names:
            router_of(name, **options)
    except RouterError as error:
        raise UsageError(str(error)) from None
    return dict.fromkeys(names, options)


def _option(change: str) -> tuple[str, Any]:
    name, sign, value = change.partition("=")
    if not sign or not name:
        raise UsageError(f"--set takes NAME=VALUE, such as mix=2: got {change!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {change}: the value cannot be read") from None
