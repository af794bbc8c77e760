"""The evaluation of calibration and coupling as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, decibel, heading, share

Columns = list[tuple[str, str, Callable[[float], str]]]
DECISIONS: Columns = [
    ("precision", "precision", share),
    ("recall", "recall", share),
    ("balanced_accuracy", "bal. acc.", share),
    ("accuracy", "accuracy", share),
    ("auc", "AUC", share),
    ("average_precision", "avg. precision", share),
]
PROBABILITIES: Columns = [
    ("ece", "calibration error", share),
    ("brier", "Brier", share),
    ("error_of_prior", "error of the prior", share),
    ("set_size", "answers in a set", decibel),
    ("missed", "missed by sets", share),
    ("missed_most", "missed most", share),
]


def tables(rows: Sequence[Row]) -> list[Table]:
    """Decisions, probabilities, precision-recall and reliability, for each experiment."""
    found: list[Table] = []
    for head in dict.fromkeys((row["experiment"], row["preset"]) for row in rows):
        mine = [row for row in rows if (row["experiment"], row["preset"]) == head]
        plain = [row for row in mine if "recall" not in row and "bin" not in row]
        of = heading(head)
        found.append(_table(of, "Decisions, means over tickets", plain, DECISIONS))
        found.append(_table(of, "Probabilities", plain, PROBABILITIES))
        curves = [{**row, "metric": f"{row['recall']:g}"} for row in mine if "recall" in row]
        recalls = list(dict.fromkeys(row["metric"] for row in curves))
        found.append(_table(of, "Precision at a recall of", curves, [(r, r, share) for r in recalls]))
        bars = [{**r, "metric": f"{r['bin']:g}"} for r in mine if "bin" in r and r["metric"] == "observed"]
        bins = sorted({row["metric"] for row in bars}, key=float)
        title = "Reliability: how often yes was right where its probability was up to"
        found.append(_table(of, title, bars, [(b, b, share) for b in bins]))
    return [table for table in found if table.body]


def _table(of: str, title: str, rows: Sequence[Row], columns: Columns) -> Table:
    cells: dict[tuple[str, float, str], dict[str, Row]] = {}
    metrics = {metric for metric, _, _ in columns}
    for row in rows:
        if row["metric"] in metrics:
            cells.setdefault((row["method"], row["sparsity"], row["reading"]), {})[row["metric"]] = row
    shown = [column for column in columns if any(column[0] in cell for cell in cells.values())]
    body = [
        [
            method,
            f"{sparsity:.0%}",
            reading,
            str(max(r["seeds"] for r in cell.values())),
            *(_cell(cell.get(m), f) for m, _, f in shown),
        ]
        for (method, sparsity, reading), cell in cells.items()
    ]
    header = ["method", "sparsity", "reading", "seeds", *(label for _, label, _ in shown)]
    return Table(title, header, body, of)


def _cell(row: Row | None, fmt: Callable[[float], str]) -> str:
    if row is None:
        return ""
    return fmt(row["mean"]) if row["ci95"] is None else f"{fmt(row['mean'])} ± {fmt(row['ci95'])}"
