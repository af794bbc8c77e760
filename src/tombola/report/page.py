"""A results page and its twin for machines: tables between two marks in Markdown, rows in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tombola.errors import UsageError
from tombola.methods import METHODS
from tombola.report.rows import Row
from tombola.report.tables import Table, tables
from tombola.storage import write_bytes

BEGIN, END = "<!-- tables: made by `tombola compare` -->", "<!-- end of tables -->"


def write_page(page: Path, rows: Sequence[Row]) -> None:
    """Write ``NAME.json`` and put the tables into ``NAME.md``; the words around the marks stay.

    Rows of outcomes that are not among these, from runs that may lie elsewhere, stay on the page.

    Raises:
        UsageError: the page is no ``.md`` file, or exists without the marks.
    """
    before, after = _around(page)
    rows = merge(_stored(page.with_suffix(".json")), rows)
    _write(page, before, tables(rows), rows, after)


def put_tables(page: Path, made: Sequence[Table], plain: Sequence[Mapping[str, Any]], name: str = "") -> None:
    """Put tables between the marks of a page, all of them anew, and the same for machines beside it.

    Args:
        page: ``NAME.md``; made if absent.
        made: the tables.
        plain: what they say, for ``NAME.json``; rows there of other experiments and presets stay.
        name: of the marks, where a page has several places.

    Raises:
        UsageError: the page is no ``.md`` file, or exists without the marks.
    """
    before, after = _around(page, name)
    file, heads = page.with_suffix(".json"), {(row["experiment"], row["preset"]) for row in plain}
    kept = [row for row in _stored(file) if (row["experiment"], row["preset"]) not in heads]
    _write(page, before, made, [*kept, *plain], after, name)


def mark(head: tuple[str, str]) -> str:
    """What the place of an experiment and preset is called; changes of the preset do not count.

    >>> mark(("digits", "quick T=5")), mark(("mine", ""))
    ('digits quick', 'mine')
    """
    return " ".join([head[0], *head[1].split()[:1]])


def marks(name: str = "") -> tuple[str, str]:
    """The lines between which tables stand."""
    return (BEGIN, END) if not name else (f"<!-- tables: {name} -->", f"<!-- end of tables: {name} -->")


def _around(page: Path, name: str = "") -> tuple[str, str]:
    begin, finish = marks(name)
    if page.suffix != ".md":
        raise UsageError(f"--write takes a Markdown page, NAME.md: got {page}")
    old = page.read_text() if page.exists() else f"# {page.stem}\n\n{begin}\n{finish}\n"
    before, _, rest = old.partition(begin)
    _, end, after = rest.partition(finish)
    if not end:
        raise UsageError(f"{page} has no place for tables: put the lines {begin} and {finish} into it")
    return before, after


def _write(
    page: Path,
    before: str,
    made: Sequence[Table],
    rows: Sequence[Mapping[str, Any]],
    after: str,
    name: str = "",
) -> None:
    begin, finish = marks(name)
    words = "\n".join(table.markdown() for table in made)
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_bytes(page.with_suffix(".json"), f"[\n{lines}\n]\n".encode())
    write_bytes(page, f"{before}{begin}\n\n{words}\n{finish}{after}".encode())


def merge(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The new rows, and the old ones of outcomes (experiment, preset, method, sparsity) without new."""
    replaced = {_outcome(row) for row in new}
    both = [row for row in old if _outcome(row) not in replaced] + list(new)
    order = {name: i for i, name in enumerate(METHODS)}
    return sorted(
        both, key=lambda r: (r["experiment"], r.get("preset", ""), order[r["method"]], r["sparsity"])
    )


def _outcome(row: Row) -> tuple:
    return row["experiment"], row.get("preset", ""), row["method"], row["sparsity"]


def _stored(file: Path) -> list[Row]:
    if not file.exists():
        return []
    try:
        stored: list[Row] = json.loads(file.read_text())
    except ValueError as error:
        raise UsageError(f"{file} is damaged ({error}): delete it, or restore it") from None
    return stored
