"""The performance page and its twin for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.row import Row

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def update(rows: Sequence[Row], machine: str, date: str, docs: Path = DOCS) -> None:
    """Put new rows in the place of old ones of the same name; rows not measured now stay."""
    replicate = docs / "performance.json"
    old: list[dict[str, Any]] = json.loads(replicate.read_text()) if replicate.exists() else []
    merged = {row["name"]: row for row in old}
    merged |= {row.name: {**asdict(row), "machine": machine, "date": date} for row in rows}
    entries = sorted(merged.values(), key=lambda row: row["name"])
    replicate.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    page = docs / "performance.md"
    head, rest = page.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n{table(entries)}\n{END}{tail}")


def table(entries: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, the machines as a legend below."""
    machines = list(dict.fromkeys(row["machine"] for row in entries))
    letters = {machine: chr(ord("A") + i) for i, machine in enumerate(machines)}
    lines = [
        "| name | value | quartiles | target | against | machine, date |",
        "|---|--:|--:|--:|---|---|",
    ]
    for row in entries:
        target = "" if row["target"] is None else f"≤ {row['target']:g}{_unit(row)}"
        spread = "" if row["spread"] is None else " to ".join(number(value) for value in row["spread"])
        where = f"{letters[row['machine']]}, {row['date']}"
        cells = (f"`{row['name']}`", number(row["value"]) + _unit(row), spread, target, row["against"], where)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"Machine {letters[m]}: {m}." for m in machines)])


def number(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _unit(row: dict[str, Any]) -> str:
    return row["unit"] if row["unit"] == "×" else f" {row['unit']}"
