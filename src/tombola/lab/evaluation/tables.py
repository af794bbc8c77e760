"""Rows of evaluations, one per measured value, and the tables of `tombola route` and `tombola calibrate`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from tombola._utils.statistics import interval
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Column, Table, by_experiment, decibel, heading, outcomes, share, whole
from tombola.objectives.metrics import ordered

Values = list[Row]


GAP = Column("gap_closed", "gap", share, share)
RIGHT = Column("routing_accuracy", "right", share)
COSTS = [
    Column("numbers", "decide", whole),
    Column("stored", "stored", whole),
    Column("ms_route_1", "ms", decibel),  # of one sample; batches of 64 are in the twin
    Column("ms_ticket_1", "own ms", decibel),
]
MOVES = [Column("switches", "switches", whole), Column("true_switches", "changes", whole)]
# In passes of the network; nothing for those that are no routers.
PASSES = {"prototype": "shallow", "gate": "shallow", "score": "K f", "superposition": "f+b"}
SHOWN = ("prototype", "score")  # whose windows and confusions are printed; those of others are in the twin
NAMES = {  # who answers besides the oracle and routers, in words
    "best_fixed": "best fixed ticket",
    "random": "a random ticket",
    "dense": "dense network",
    "imp": "single mask (IMP)",
    "union_size_imp": "union-size mask",
}
DECISIONS = [
    *map(Column.of, ("precision", "recall", "balanced_accuracy", "accuracy", "auc", "average_precision"))
]
PROBABILITIES = [
    Column.of("ece"),
    Column("brier", "Brier", share, share),
    Column("error_of_prior", "error of the prior", share, share),
    Column.of("set_size"),
    Column("missed", "missed by sets", share, share),
    Column("missed_most", "missed most", share, share),
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
    for head, mine in by_experiment(rows).items():
        of = heading(head)
        plain = [row for row in mine if "window" not in row and "context" not in row]
        found += _who(of, [{**row, "router": NAMES.get(row["router"], row["router"])} for row in plain])
        shown = [row for row in mine if row["router"] in SHOWN]
        quality = _quality(plain)
        windows = [row for row in shown if "window" in row]
        keys = {"router": "router", "cut": "sparsity", "size": "window", "lead": "margin"}
        title = "A stream in which each context lasts for 32 samples"
        found.append(outcomes(title, windows, keys, [RIGHT, *quality, GAP, *MOVES], of=of))
        confused = [row for row in shown if "context" in row]
        for sparsity, who in dict.fromkeys((row["sparsity"], row["router"]) for row in confused):
            there = [r for r in confused if (r["sparsity"], r["router"]) == (sparsity, who)]
            title = f"Which context goes to which ticket: {who}, {sparsity:.0%} sparsity"
            found.append(_confusion(of, title, there))
    return [table for table in found if table.body]


def calibration_tables(rows: Sequence[Row]) -> list[Table]:
    """Decisions, probabilities, precision-recall and reliability, for each experiment."""
    found: list[Table] = []
    for head, mine in by_experiment(rows).items():
        of = heading(head)
        plain = [row for row in mine if "recall" not in row and "bin" not in row]
        found.append(_readings(of, "Decisions, means over tickets", plain, DECISIONS))
        found.append(_readings(of, "Probabilities", plain, PROBABILITIES))
        curves = [{**row, "metric": f"{row['recall']:g}"} for row in mine if "recall" in row]
        recalls = dict.fromkeys(row["metric"] for row in curves)
        at = [Column(recall, recall, share, share) for recall in recalls]
        found.append(_readings(of, "Precision at a recall of", curves, at))
        bars = [{**r, "metric": f"{r['bin']:g}"} for r in mine if "bin" in r and r["metric"] == "observed"]
        bins = sorted({row["metric"] for row in bars}, key=float)
        title = "Reliability: how often yes was right where its probability was up to"
        found.append(_readings(of, title, bars, [Column(b, b, share, share) for b in bins]))
    return [table for table in found if table.body]


def _quality(rows: Sequence[Row]) -> list[Column]:
    """The metrics that decide."""
    return [Column.of(info.name) for info in ordered(row["metric"] for row in rows) if info.primary]


def _who(of: str, rows: Sequence[Row]) -> list[Table]:
    """How well each answers, and what choosing costs: two tables, so that each fits a terminal."""
    keys, sure = {"who": "router", "cut": "sparsity"}, Column("confidence", "sure", share)
    well = outcomes(
        "Who chooses the ticket", rows, keys, [*_quality(rows), GAP, RIGHT, sure], {"n": "seeds"}, of
    )
    fitted = [row for row in rows if _passes(row["router"])]
    dear = outcomes("What choosing costs", fitted, keys, COSTS, of=of)
    body = [[*line, _passes(line[0])] for line in dear.body]
    return [well, replace(dear, header=[*dear.header, "passes"], body=body)]


def _passes(router: str) -> str:
    kind, _, variant = router.partition(", ")
    return "log2 K f+b" if variant == "binary" else PASSES.get(kind, "")


def _confusion(of: str, title: str, rows: Sequence[Row]) -> Table:
    to = list(dict.fromkeys(row["ticket"] for row in rows))
    shares = {(row["context"], row["ticket"]): row["mean"] for row in rows}
    return Table(title, ["context", *to], [[a, *(share(shares[a, b]) for b in to)] for a in to], of)


def _readings(of: str, title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """A line for each way to read the tickets of a method."""
    keys = {"method": "method", "sparsity": "sparsity", "reading": "reading"}
    return outcomes(title, rows, keys, columns, {"seeds": "seeds"}, of)
