"""Files that other commands keep for the report (``--keep``): looked for in a run and above."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tombola.lab.report.findings import Findings
from tombola.lab.report.rows import Row


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
        if isinstance(content, list):
            mine = [
                row for row in content if isinstance(row, dict) and "mean" in row and _head(row) == found.head
            ]
            if mine:
                return mine
    return []


def _head(row: Row) -> tuple[Any, Any]:
    return row.get("experiment"), row.get("preset")


def middle(rows: Sequence[Row]) -> float:
    """The sparsity among those of the rows that is nearest to one half."""
    return float(min({row["sparsity"] for row in rows}, key=lambda s: (abs(s - 0.5), s)))
