"""Rows of evaluations, one per measured value, and the tables of `tombola route` and `tombola calibrate`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tombola._utils.statistics import interval
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, decibel, heading, share, whole
from tombola.objectives.metrics import metric_info

Values = list[Row]
Format = Callable[[float], str]
Columns = list[tuple[str, str, Format]]  # metric, heading, format
Cells = dict[tuple, dict[str, Row]]  # lines of a table: what they are of, and their rows by metric


def _columns(*names: str) -> Columns:
    return [(name, metric_info(name).column, metric_info(name).write) for name in names]


QUALITY = _columns("accuracy", "si_snri", "psnr")
GAP, RIGHT = ("gap_closed", "gap", share), ("routing_accuracy", "right", share)
COSTS: Columns = [
    ("numbers", "decide", whole),
    ("stored", "stored", whole),
    ("ms_route_1", "ms", decibel),  # of one sample; batches of 64 are in the twin
    ("ms_ticket_1", "own ms", decibel),
]
# In passes of the network; nothing for those that are no routers.
PASSES = {"prototype": "shallow", "gate": "shallow", "score": "K f", "superposition": "f+b"}
SHOWN = ("prototype", "score")  # whose windows and confusions are printed; those of others are in the twin
NAMES = {
    "best_fixed": "best fixed ticket",
    "random": "a random ticket",
    "dense": "dense network",
    "imp": "single mask (IMP)",
    "union_size_imp": "union-size mask",
}
DECISIONS = _columns("precision", "recall", "balanced_accuracy", "accuracy", "auc", "average_precision")
PROBABILITIES: Columns = [
    *_columns("ece"),
    ("brier", "Brier", share),
    ("error_of_prior", "error of the prior", share),
    *_columns("set_size"),
    ("missed", "missed by sets", share),
    ("missed_most", "missed most", share),
]


def rows(what: Mapping[str, Any], found: Mapping[str, float | Tensor]) -> Values:
    """A row per metric: what was measured, the metric's name, the value.

    >>> rows({"router": "gate"}, {"accuracy": 0.5})
    [{'router': 'gate', 'metric': 'accuracy', 'value': 0.5}]
    """
    return [{**what, "metric": name, "value": float(value)} for name, value in found.items()]


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


def routing_tables(rows: Sequence[Row]) -> list[Table]:
    """For each experiment: who answers how well, what choosing costs, windows, and confusions."""
    found: list[Table] = []
    for of, mine in _by_experiment(rows):
        found += _who(of, _cells([r for r in mine if "window" not in r and "context" not in r], "router"))
        shown = [row for row in mine if row["router"] in SHOWN]
        found.append(_windows(of, _cells([r for r in shown if "window" in r], "router", "window", "margin")))
        confused = [row for row in shown if "context" in row]
        for sparsity, who in dict.fromkeys((row["sparsity"], row["router"]) for row in confused):
            there = [r for r in confused if (r["sparsity"], r["router"]) == (sparsity, who)]
            title = f"Which context goes to which ticket: {who}, {sparsity:.0%} sparsity"
            found.append(_confusion(of, title, there))
    return [table for table in found if table.body]


def calibration_tables(rows: Sequence[Row]) -> list[Table]:
    """Decisions, probabilities, precision-recall and reliability, for each experiment."""
    found: list[Table] = []
    for of, mine in _by_experiment(rows):
        plain = [row for row in mine if "recall" not in row and "bin" not in row]
        found.append(_readings(of, "Decisions, means over tickets", plain, DECISIONS))
        found.append(_readings(of, "Probabilities", plain, PROBABILITIES))
        curves = [{**row, "metric": f"{row['recall']:g}"} for row in mine if "recall" in row]
        recalls = list(dict.fromkeys(row["metric"] for row in curves))
        found.append(_readings(of, "Precision at a recall of", curves, [(r, r, share) for r in recalls]))
        bars = [{**r, "metric": f"{r['bin']:g}"} for r in mine if "bin" in r and r["metric"] == "observed"]
        bins = sorted({row["metric"] for row in bars}, key=float)
        title = "Reliability: how often yes was right where its probability was up to"
        found.append(_readings(of, title, bars, [(b, b, share) for b in bins]))
    return [table for table in found if table.body]


def _who(of: str, cells: Cells) -> list[Table]:
    """How well each answers, and what choosing costs: two tables, so that each fits a terminal."""
    columns = _held([*QUALITY, GAP, RIGHT, ("confidence", "sure", share)], cells)
    costs, well, dear = _held(COSTS, cells), [], []
    for (sparsity, who), cell in cells.items():
        line = [NAMES.get(who, who), f"{sparsity:.0%}"]
        well.append([*line, _seeds(cell), *_texts(cell, columns)])
        kind, _, variant = who.partition(", ")
        if passes := "log2 K f+b" if variant == "binary" else PASSES.get(kind):
            dear.append([*line, *_texts(cell, costs), passes])
    return [
        Table("Who chooses the ticket", ["who", "cut", "n", *_labels(columns)], well, of),
        Table("What choosing costs", ["who", "cut", *_labels(costs), "passes"], dear, of),
    ]


def _windows(of: str, cells: Cells) -> Table:
    columns = [RIGHT, *_held(QUALITY, cells), GAP]
    moves: Columns = [("switches", "", whole), ("true_switches", "", whole)]
    body = []
    for (sparsity, who, size, margin), cell in cells.items():
        line = [who, f"{sparsity:.0%}", str(size), f"{margin:g}", *_texts(cell, columns)]
        body.append([*line, "/".join(_texts(cell, moves))])
    header = ["router", "cut", "size", "lead", *_labels(columns), "moves"]
    return Table("A stream in which each context lasts for 32 samples", header, body, of)


def _confusion(of: str, title: str, rows: Sequence[Row]) -> Table:
    to = list(dict.fromkeys(row["ticket"] for row in rows))
    shares = {(row["context"], row["ticket"]): row["mean"] for row in rows}
    return Table(title, ["context", *to], [[a, *(share(shares[a, b]) for b in to)] for a in to], of)


def _readings(of: str, title: str, rows: Sequence[Row], columns: Columns) -> Table:
    """A line for each way to read the tickets of a method."""
    metrics = {metric for metric, _, _ in columns}
    cells = _cells([row for row in rows if row["metric"] in metrics], "method", "reading")
    columns = _held(columns, cells)
    body = [
        [method, f"{sparsity:.0%}", reading, _seeds(cell), *_texts(cell, columns)]
        for (sparsity, method, reading), cell in cells.items()
    ]
    return Table(title, ["method", "sparsity", "reading", "seeds", *_labels(columns)], body, of)


# -- lines and columns ------------------------------------------------------------------------------------


def _by_experiment(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for head in dict.fromkeys((row["experiment"], row["preset"]) for row in rows):
        yield heading(head), [row for row in rows if (row["experiment"], row["preset"]) == head]


def _cells(rows: Sequence[Row], *names: str) -> Cells:
    """A line for each sparsity and values of these names, in first-seen order."""
    cells: Cells = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in ("sparsity", *names)), {})[row["metric"]] = row
    return cells


def _held(columns: Columns, cells: Cells) -> Columns:
    return [column for column in columns if any(column[0] in cell for cell in cells.values())]


def _labels(columns: Columns) -> list[str]:
    return [label for _, label, _ in columns]


def _seeds(cell: Mapping[str, Row]) -> str:
    return str(max(row["seeds"] for row in cell.values()))


def _texts(cell: Mapping[str, Row], columns: Columns) -> list[str]:
    return [_text(cell.get(metric), fmt) for metric, _, fmt in columns]


def _text(row: Row | None, fmt: Format) -> str:
    """A mean, with its interval where that is of interest."""
    if row is None:
        return ""
    if row["ci95"] is None or fmt is whole or row["metric"].startswith(("ms_", "routing", "confidence")):
        return fmt(row["mean"])
    return f"{fmt(row['mean'])} ± {fmt(row['ci95'])}"
