"""Files that other commands keep for the report (``--keep``): looked for in a run and above."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tombola.lab.report.figures import Point, Series, Style
from tombola.lab.report.findings import Findings
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, by_outcome, mean_and_half
from tombola.objectives.metrics import metric_info


def contents(found: Findings, file: str) -> list[Any]:
    """What the files of this name hold, those nearest to a run first; what is no JSON is passed over."""
    places: list[Path] = [
        folder for ran in found.runs for folder in (ran.path, *ran.path.resolve().parents[:2])
    ]
    read = []
    for place in dict.fromkeys(places):
        try:
            read.append(json.loads((place / file).read_text()))
        except (OSError, ValueError):
            continue
    return read


def rows(found: Findings, file: str) -> list[Row]:
    """The rows of this comparison in the first of these files that has some; each has a ``mean``."""
    for content in contents(found, file):
        rows = content if isinstance(content, list) else []
        usable = [row for row in rows if isinstance(row, dict) and "mean" in row]
        if mine := [row for row in usable if (row.get("experiment"), row.get("preset")) == found.head]:
            return mine
    return []


def middle(rows: Sequence[Row]) -> float:
    """The sparsity among those of the rows that is nearest to one half."""
    return float(min({row["sparsity"] for row in rows}, key=lambda s: (abs(s - 0.5), s)))


def where(rows: Iterable[Row], **fields: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def points(rows: Iterable[Row], x: str = "sparsity") -> list[Point]:
    """Means and half intervals over a field, the least first."""
    return [(row[x], row["mean"], row["ci95"]) for row in sorted(rows, key=lambda row: row[x])]


def table(
    title: str, rows: Sequence[Row], keys: dict[str, str], metrics: Sequence[str], half: bool = True
) -> Table:
    """A line per outcome: its fields by their headings, then its metrics, with half the intervals or not."""
    infos = [metric_info(metric) for metric in metrics]
    body = []
    for values, cell in by_outcome(rows, *keys.values()).items():
        line = [f"{value:.0%}" if isinstance(value, float) else str(value) for value in values]
        found = [cell.get(info.name) for info in infos]
        rowed = [row if half or row is None else {**row, "ci95": None} for row in found]
        body.append([*line, *(mean_and_half(r, i.write) for r, i in zip(rowed, infos, strict=True))])
    return Table(title, [*keys, *(info.column for info in infos)], body)


def styled(rows: Sequence[Row], draw: Callable[[Sequence[Row]], list[Point]], skip: int = -1) -> list[Series]:
    """A series per method and reading; that of the first method is full, those beside it hollow."""
    made = []
    for i, (method, reading) in enumerate(dict.fromkeys((row["method"], row["reading"]) for row in rows)):
        number = i if skip < 0 or i < skip else i + 1
        style = Style(number, hollow=method != rows[0]["method"])
        made.append(Series(f"{method}, {reading}", style, draw(where(rows, method=method, reading=reading))))
    return made
