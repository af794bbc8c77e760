"""Streams as a table."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Format, Table, decibel, decimal, share, whole

WHO = {"oracle": "oracle", "router": "router", "best_fixed": "fixed", "random": "random"}
VALUES = {
    "routing_accuracy": ("right", share),
    "switches": ("switches", whole),
    "true_switches": ("changes", whole),
    "delay": ("late, s", decibel),
    "missed": ("missed", decimal),
    "ms_route": ("ms route", decibel),
    "ms_ticket": ("ms ticket", decibel),
    "ms_wait": ("ms wait", whole),
}


def tables(rows: Sequence[Row]) -> list[Table]:
    """One line for each experiment, sparsity and router."""
    cells: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        key = (row["experiment"], row["preset"], row["sparsity"], row["router"])
        cells.setdefault(key, {})[row.get("who", "") or row["metric"]] = row
    body = []
    for (experiment, preset, sparsity, router), cell in cells.items():
        line = [f"{experiment} {preset}", f"{sparsity:.0%}", router]
        line += [_mean(cell.get(who), decibel) for who in WHO]
        body.append(line + [_mean(cell.get(name), fmt) for name, (_, fmt) in VALUES.items()])
    header = ["run", "removed", "router", *WHO.values(), *(label for label, _ in VALUES.values())]
    return [
        Table("A stream of scenes: SI-SNRi in dB by who chooses, and how the router follows", header, body)
    ]


def _mean(row: Row | None, fmt: Format) -> str:
    return "" if row is None else fmt(row["mean"])
