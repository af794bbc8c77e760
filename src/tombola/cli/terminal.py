"""What the command line shows: progress, tables, lists; JSON for machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tombola._utils.errors import UsageError, unknown
from tombola._utils.io import write_bytes
from tombola.cli.display import Display
from tombola.data.dataset import Data
from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.launch import Order
from tombola.lab.report.findings import expected
from tombola.lab.report.page import Place, put_tables
from tombola.lab.report.rows import Row, find_runs
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.report.tables import Table, tables, under_headings
from tombola.methods.table import METHODS, TOOLBOX

# What is printed holds paths and names, in which square brackets are no markup.
out_console, err_console = Console(markup=False), Console(stderr=True, markup=False)
if not out_console.is_terminal:
    out_console.width = 160  # a file or a pipe has no width of its own


def run_and_compare(
    order: Order, data: Mapping[str, Data], where: Sequence[tuple[int, str, Path]], as_json: bool
) -> None:
    """Carry out an order for each seed and item, show how far it is, then the comparison.

    Raises:
        UsageError: an item that the data do not have.
    """
    work(order, data, where)
    rows = rows_of([path for _, _, path in where])
    show(tables(rows), rows, as_json)
    err_console.print(f"runs: {', '.join(str(path) for _, _, path in where)}", highlight=False)


def work(
    order: Order, data: Mapping[str, Data], where: Sequence[tuple[int, str, Path]], note: str = ""
) -> None:
    """Carry out an order for each seed and item, and show how far it is; ``note`` stands before each word."""
    for _, item, _ in where:
        if item not in data and "" in data:
            raise UsageError(f"{order.experiment.name} has one network for all its data: leave out --item")
        if item not in data:
            raise UsageError(unknown("item", item, data))
    wanted = expected({"methods": list(order.methods), "settings": order.settings.plain()})
    with Display(err_console, [path for _, _, path in where], wanted) as display:
        for seed, item, path in where:
            display.turn_to(note + (f"{item}, seed {seed}" if item else f"seed {seed}"), path)
            try:
                for word in order.run(data[item], seed, path, display.on_progress, item, display.on_record):
                    display.say(word)
            except KeyboardInterrupt:
                if (path / "config.yaml").exists():
                    display.say(f"`tombola resume {path}`, or the same command, goes on from here")
                raise


@contextmanager
def busy(where: str) -> Iterator[Callable[[str], None]]:
    """A line that moves while this lasts, on a terminal; it says what it is told, and ``where`` before it."""
    if not err_console.is_terminal:
        yield lambda _: None
        return
    with err_console.status(where) as status:
        yield lambda words: status.update(f"{where}: {words}")


def runs_of(paths: Sequence[Path], command: str) -> list[Path]:
    """The run directories that a command is to read.

    Raises:
        UsageError: no path was given.
        RunError: a path is no run and holds none.
    """
    if not paths:
        raise UsageError(f"{command} needs at least one run directory")
    return find_runs(paths)


def show(made: Iterable[Table], plain: Any, as_json: bool) -> None:
    """Tables, or for machines what they say."""
    if as_json:
        print_json(plain)
        return
    for of, together in under_headings(made):
        if of:
            out_console.print(Text(f"\n{of}", "bold underline"))
        for table in together:
            out_console.print(table)


def show_rows(
    rows: Sequence[Row],
    tables: Callable[[Sequence[Row]], Sequence[Table]],
    as_json: bool,
    write: Path | None,
    place: Place,
    keep: Path | None = None,
) -> None:
    """How commands that measure end: rows into a file and onto a page if wanted, then on the screen."""
    if keep is not None:
        write_bytes(keep, to_json(rows).encode())
    if write is not None:
        put_tables(write, place, rows, tables)
    show(tables(rows), rows, as_json)


def print_tickets(metadata: Mapping[str, Any]) -> None:
    """What `tombola.lab.report.inspect.describe` found in a ticket file."""
    for key in ("method", "router", "calibration"):
        out_console.print(f"{key}: {_named(metadata[key])}", highlight=False, soft_wrap=True)
    heads = ("bytes", "weights_in_scope", "union", "core", "private_numbers_per_ticket", "dense_rest")
    for key in heads:
        out_console.print(f"{key.replace('_', ' ')}: {metadata[key]:,}")
    layers = list(next(iter(metadata["layers"].values())))
    body = [
        [layer, *(f"{metadata['layers'][t][layer]:.3f}" for t in metadata["tickets"])] for layer in layers
    ]
    total = ["all", *(f"{n / metadata['weights_in_scope']:.3f}" for n in metadata["tickets"].values())]
    out_console.print(Table("Density per layer", ["layer", *metadata["tickets"]], [*body, total]))


def _named(fact: str | Mapping[str, Any] | None) -> str:
    """A word, or the name of what was fitted and its options."""
    if fact is None or isinstance(fact, str):
        return fact or "none"
    first, *options = fact.items()
    return " ".join([str(first[1]), *(f"{name}={value}" for name, value in options if value != "")])


def print_experiments() -> None:
    """Experiments with their data and presets, and the methods."""
    for e in EXPERIMENTS.values():
        out_console.print(Text(e.name, "bold"), f" {e.summary}\n  data: {e.data}", highlight=False)
        for name, preset in e.presets.items():
            out_console.print(f"  --preset {name}: {preset.summary}", highlight=False)
    out_console.print("methods:", highlight=False)
    for name, composed in METHODS.items():
        control = " (control)" if composed.control else ""
        control += " (toolbox: asked for by name)" if name in TOOLBOX else ""
        out_console.print(f"  --method {name}: {composed.summary}{control}", highlight=False)


def experiments_plain() -> list[dict[str, Any]]:
    """The same for machines."""
    return [
        {
            "name": e.name,
            "summary": e.summary,
            "data": e.data,
            "presets": {name: preset.summary for name, preset in e.presets.items()},
        }
        for e in EXPERIMENTS.values()
    ]


def print_json(value: Any) -> None:
    """Any plain value as JSON, on standard output."""
    sys.stdout.write(to_json(value))


def to_json(value: Any) -> str:
    """A plain value as JSON, a line at the end; numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
