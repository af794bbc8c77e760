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

from tombola._utils.errors import UsageError
from tombola._utils.io import write_bytes
from tombola.lab.report.page import Place, put_tables
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, under_headings
from tombola.lab.results import find_runs

# What is printed holds paths and names, in which square brackets are no markup.
out_console = Console(markup=False, highlight=False)
err_console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
if not out_console.is_terminal:
    out_console.width = 160  # a file or a pipe has no width of its own


def say_aside(line: str) -> None:
    """A line on standard error, where progress goes."""
    err_console.print(line)


@contextmanager
def busy(where: str) -> Iterator[Callable[[str], None]]:
    """A line that moves while this lasts, on a terminal; it says what it is told, and ``where`` before it."""
    if not err_console.is_terminal:
        yield lambda _: None
        return
    with err_console.status(where) as status:
        yield lambda words: status.update(f"{where}: {words}")


def runs_of(paths: Sequence[Path], command: str) -> list[Path]:
    """The run directories that a command is to read."""
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
    brief: bool = False,
) -> None:
    """How commands that measure end: rows into a file and onto a page if wanted, then on the screen.

    Where it is to be brief the screen has the first table alone; the page has all.
    """
    if keep is not None:
        write_bytes(keep, to_json(rows).encode())
    if write is not None:
        put_tables(write, place, rows, tables)
    show(tables(rows)[: 1 if brief else None], rows, as_json)


def say(text: str, plain: Any, as_json: bool) -> None:
    """A text on standard output, or for machines what it says."""
    sys.stdout.write(to_json(plain) if as_json else text)


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
