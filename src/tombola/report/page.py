"""A results page and its twin for machines: tables between two marks in Markdown, rows in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tombola.errors import UsageError
from tombola.methods import METHODS
from tombola.report.rows import Row
from tombola.report.tables import tables
from tombola.storage import write_bytes

BEGIN, END = "<!-- tables: made by `tombola compare` -->", "<!-- end of tables -->"


def write_page(page: Path, rows: Sequence[Row]) -> None:
    """Write ``NAME.json`` and put the tables into ``NAME.md``; the words around the marks stay.

    Rows of outcomes that are not among these, from runs that may lie elsewhere, stay on the page.

    Raises:
        UsageError: the page is no ``.md`` file, or exists without the marks.
    """
    if page.suffix != ".md":
        raise UsageError(f"--write takes a Markdown page, NAME.md: got {page}")
    old = page.read_text() if page.exists() else f"# {page.stem}\n\n{BEGIN}\n{END}\n"
    before, _, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise UsageError(f"{page} has no place for tables: put the lines {BEGIN} and {END} into it")
    rows = merge(_stored(page.with_suffix(".json")), rows)
    made = "\n".join(table.markdown() for table in tables(rows))
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_bytes(page.with_suffix(".json"), f"[\n{lines}\n]\n".encode())
    write_bytes(page, f"{before}{BEGIN}\n\n{made}\n{END}{after}".encode())


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
