"""What `tombola route` and `tombola calibrate` kept for the report (``--keep``), and the chapters on it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from tombola.lab.evaluation.tables import NAMES, calibration_tables, routing_tables
from tombola.lab.report.blocks import Block, Charts, Tabled, Words
from tombola.lab.report.charts import REMOVED, Axis, Chart, Point, heat, lines, percent
from tombola.lab.report.findings import Findings
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import share
from tombola.objectives.metrics import ordered


def contents(found: Findings, file: str) -> list[Any]:
    """The JSON files of this name in and above the runs, the nearest first; others are left out."""
    places = [folder for ran in found.runs for folder in (ran.path, *ran.path.resolve().parents[:2])]
    read = []
    for place in dict.fromkeys(places):
        try:
            read.append(json.loads((place / file).read_text()))
        except (OSError, ValueError):
            continue
    return read


def _rows(found: Findings, file: str) -> list[Row]:
    """The rows of this comparison in the first of these files that has some; each has a ``mean``."""
    for content in contents(found, file):
        rows = content if isinstance(content, list) else []
        usable = [row for row in rows if isinstance(row, dict) and "mean" in row]
        if mine := [row for row in usable if (row.get("experiment"), row.get("preset")) == found.head]:
            return mine
    return []


def _middle(rows: Sequence[Row]) -> float:
    """The sparsity that is nearest to one half."""
    return float(min({row["sparsity"] for row in rows}, key=lambda s: (abs(s - 0.5), s)))


def _where(rows: Iterable[Row], **fields: Any) -> list[Row]:
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def _points(rows: Iterable[Row], name: str, kind: str, x: str = "sparsity") -> list[Point]:
    """Means and half intervals over a field, the least first."""
    return [(name, kind, row[x], row["mean"], row["ci95"]) for row in sorted(rows, key=lambda row: row[x])]


# -- routing -------------------------------------------------------------------------------------------------


def routing(found: Findings) -> list[Block]:
    """Who answers where no context is given; nothing where no rows of these runs were kept."""
    rows = _rows(found, "routing.json")
    plain = [row for row in rows if "window" not in row and "context" not in row]
    who = dict.fromkeys(row["router"] for row in plain)
    routers = [name for name in who if not name.startswith(("oracle", *NAMES))]
    quality = next((info for info in ordered(row["metric"] for row in plain) if info.primary), None)
    if not routers or quality is None:
        return []
    router, sparsity = routers[0], _middle(plain)
    at = {row["router"]: row["mean"] for row in _where(plain, metric=quality.name, sparsity=sparsity)}
    names = {"oracle": "the right ticket, given", router: f"the {router} router", **NAMES}
    by_who = ", ".join(f"{name} {quality.write(at[who])}" for who, name in names.items() if who in at)
    words = f"Where nobody names the ticket, at {sparsity:.0%} removed, {quality.inside}: {by_who}."
    charts = Charts([*_gaps(plain, routers), *_confusions(rows, router)])
    return [Words([words]), charts, Tabled(routing_tables(plain)[0])]


def _gaps(rows: Sequence[Row], routers: Sequence[str]) -> list[Chart]:
    """Gap closed over sparsity, a line per router; references as controls."""
    points: list[Point] = []
    for name in [*routers, *(name for name in NAMES if name != "best_fixed")]:
        kind = "control" if name in NAMES else "measured"
        mine = _where(rows, router=name, metric="gap_closed")
        points += _points(mine, NAMES.get(name, name), kind)
    title = "Gap between the best fixed ticket (0) and the oracle (1)"
    return [lines(title, points, REMOVED, Axis("gap closed", share))] if points else []


def _confusions(rows: Sequence[Row], router: str) -> list[Chart]:
    """Which context goes to which ticket by the first router, which is the default one, per sparsity."""
    mine = [row for row in _where(rows, router=router) if "context" in row]
    names = dict.fromkeys(row["ticket"] for row in mine)
    states = {
        f"{sparsity:.0%} removed": pd.DataFrame(_where(mine, sparsity=sparsity))
        .pivot(index="context", columns="ticket", values="mean")
        .reindex(index=names, columns=names)
        for sparsity in sorted({row["sparsity"] for row in mine})
    }
    title = f"Context (down) to ticket (across): {router}"
    return [heat(title, states, Axis("share", share), (0.0, 1.0))] if states else []


# -- precision and probability -------------------------------------------------------------------------------


def calibration(found: Findings) -> list[Block]:
    """What the probabilities are worth; nothing where no rows of these runs were kept."""
    rows = _rows(found, "precision.json")
    if not rows:
        return []
    sparsity = _middle(rows)
    here = _where(rows, sparsity=sparsity)
    words = [f"At {sparsity:.0%} removed. Maps, thresholds and couplings come from validation data."]
    method = here[0]["method"]
    off = [f"{row['reading']} {share(row['mean'])}" for row in _where(here, metric="ece", method=method)]
    words += [f"By how much probabilities of {method} are off: {', '.join(off)}."] if off else []
    tables = [table for table in calibration_tables(rows) if table.title == "Probabilities"]
    return [Words(words), Charts([*_recalls(here), *_reliability(here)]), *map(Tabled, tables)]


def _recalls(rows: Sequence[Row]) -> list[Chart]:
    """Precision at given recalls, the mean over tickets."""
    points = [
        point
        for row in _where(rows, metric="precision_at_recall")
        for point in _points([row], f"{row['method']}, {row['reading']}", "measured", "recall")
    ]
    x, y = Axis("recall", percent, ".0%"), Axis("precision, mean over tickets", share)
    return [lines("Precision over recall", points, x, y)] if points else []


def _reliability(rows: Sequence[Row]) -> list[Chart]:
    """How often yes was right, over the probability that it was given."""
    at = {(row["method"], row["reading"], row["bin"], row["metric"]): row for row in rows if "bin" in row}
    points: list[Point] = [("right as often as said", "control", end, end, None) for end in (0.0, 1.0)]
    for (method, reading, which, metric), row in sorted(at.items(), key=lambda each: each[0][2]):
        if metric == "predicted" and (observed := at.get((method, reading, which, "observed"))):
            name = f"{method}, {reading}"
            points.append((name, "measured", row["mean"], observed["mean"], observed["ci95"]))
    x, y = (Axis(label, percent, ".0%") for label in ("probability that was given", "how often it was right"))
    return [lines("Reliability", points, x, y)] if len(points) > 2 else []
