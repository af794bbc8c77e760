"""Rows of an evaluation: means and intervals over seeds, and a page with its twin for machines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tombola.errors import UsageError
from tombola.report.rows import interval
from tombola.report.tables import Table
from tombola.storage import write_bytes

Row = dict[str, Any]
END = "<!-- end of tables -->"


def over_seeds(values: Sequence[Row]) -> list[Row]:
    """Rows with ``mean``, ``ci95`` and ``seeds`` for ``value`` and ``seed``, in first-seen order.

    >>> values = [{"metric": "a", "seed": s, "value": v} for s, v in ((0, 1.0), (1, 3.0))]
    >>> over_seeds(values)  # doctest: +ELLIPSIS
    [{'metric': 'a', 'mean': 2.0, 'ci95': 12.7..., 'seeds': 2}]
    """
    groups: dict[tuple, list[float]] = defaultdict(list)
    for row in values:
        key = tuple((name, v) for name, v in row.items() if name not in ("value", "seed"))
        groups[key].append(row["value"])
    return [
        {**dict(key), "mean": float(np.mean(found)), "ci95": interval(found), "seeds": len(found)}
        for key, found in groups.items()
    ]


def write_page(
    page: Path,
    command: str,
    rows: Sequence[Row],
    tables: Callable[[Sequence[Row]], list[Table]],
    twin: Path | None = None,
) -> None:
    """Write ``NAME.json`` and put the tables into ``NAME.md`` between two marks; the words around them stay.

    A page with the tables of several commands has a ``twin`` for each.
    Rows of other experiments, presets or sparsities that are in the twin already stay.

    Raises:
        UsageError: the page is no ``.md`` file, or exists without the marks, or its twin is damaged.
    """
    if page.suffix != ".md":
        raise UsageError(f"--write takes a Markdown page, NAME.md: got {page}")
    begin = f"<!-- tables: made by `tombola {command}` -->"
    old = page.read_text() if page.exists() else f"# {page.stem}\n\n{begin}\n{END}\n"
    before, _, rest = old.partition(begin)
    _, end, after = rest.partition(END)
    if not end:
        raise UsageError(f"{page} has no place for tables: put the lines {begin} and {END} into it")
    twin = page.with_suffix(".json") if twin is None else twin
    rows = _merged(_stored(twin), rows)
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_bytes(twin, f"[\n{lines}\n]\n".encode())
    made = "\n".join(table.markdown() for table in tables(rows))
    write_bytes(page, f"{before}{begin}\n\n{made}\n{END}{after}".encode())


def _merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    def outcome(row: Row) -> tuple:
        return row["experiment"], row["preset"], row["sparsity"]

    replaced = {outcome(row) for row in new}
    both = [row for row in old if outcome(row) not in replaced] + list(new)
    return sorted(both, key=outcome)


def _stored(file: Path) -> list[Row]:
    if not file.exists():
        return []
    try:
        stored: list[Row] = json.loads(file.read_text())
    except ValueError as error:
        raise UsageError(f"{file} is damaged ({error}): delete it, or restore it") from None
    return stored
