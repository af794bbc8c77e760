"""The comparison as tables: the same content for a terminal and for a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from tombola.experiments import EXPERIMENTS
from tombola.report.rows import Row

Format = Callable[[float], str]


@dataclass(frozen=True)
class Table:
    """A title, a header, and rows of text."""

    title: str
    header: list[str]
    body: list[list[str]]

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold", header_style="dim")
        for i, name in enumerate(self.header):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for line in self.body:
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        """For a page."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [self.header, rule, *self.body]
        return f"### {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def share(value: float) -> str:
    """A share with three digits, the leading zero dropped as in the paper.

    >>> share(0.7813), share(1.0)
    ('.781', '1.000')
    """
    return f"{value:.3f}".removeprefix("0")


def whole(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def decimal(value: float) -> str:
    """One decimal."""
    return f"{value:.1f}"


READINGS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "paper": (
        "The paper's reading: tickets at probability one half, single networks at their argmax",
        [("balanced_accuracy", "bal. acc."), ("precision", "precision"), ("recall", "recall")],
    ),
    "like_for_like": (
        "Like for like: one score matrix, one reading; thresholds and coupling from validation data",
        [
            ("auc", "AUC"),
            ("average_precision", "avg. precision"),
            ("accuracy", "accuracy"),
            ("accuracy_argmax", "acc. (argmax)"),
            ("balanced_accuracy", "bal. acc."),
        ],
    ),
}
COUNTS: dict[str, list[tuple[str, str, Format]]] = {
    "What is stored": [
        ("per_ticket", "per ticket", whole),
        ("union", "union", whole),
        ("core", "core", whole),
        ("private", "private", whole),
        ("dense_rest", "dense rest", whole),
        ("mask_bytes", "mask bytes", whole),
        ("file_bytes", "file bytes", whole),
    ],
    "Similarity of the masks, and cost": [
        ("jaccard", "mean J", share),
        ("kappa", "kappa", share),
        ("kappa_twin", "kappa, twins", share),
        ("samples_search", "samples: search", whole),
        ("samples_train", "training", whole),
        ("minutes", "minutes", decimal),
    ],
}


def tables(rows: Sequence[Row]) -> list[Table]:
    """Both readings, with the paper's figures beside them, and all that is counted."""
    found: list[Table] = []
    for head in dict.fromkeys((row["experiment"], row.get("preset", "")) for row in rows):
        mine = [row for row in rows if (row["experiment"], row.get("preset", "")) == head]
        name = f"{head[0]}, preset {head[1]}" if head[1] else head[0]
        for reading, (title, metrics) in READINGS.items():
            part = [row for row in mine if row.get("reading") == reading]
            if part:
                found.append(_reading(f"{name}. {title}", part, metrics, head[0], reading))
        part = [row for row in mine if "reading" not in row]
        found += [_counts(f"{name}. {title}", part, columns) for title, columns in COUNTS.items()]
    return found


def _cells(rows: Sequence[Row]) -> dict[tuple[str, float], dict[str, Row]]:
    cells: dict[tuple[str, float], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["sparsity"]), {})[row["metric"]] = row
    return cells


def _reading(
    title: str, rows: Sequence[Row], metrics: list[tuple[str, str]], experiment: str, reading: str
) -> Table:
    cells = _cells(rows)
    paper = EXPERIMENTS[experiment].paper if experiment in EXPERIMENTS and reading == "paper" else {}
    shown = [(m, label) for m, label in metrics if any(m in cell for cell in cells.values())]
    header = ["method", "sparsity", "seeds", *(label for _, label in shown)]
    if paper:
        header += [f"paper: {label}" for _, label in shown]
    body = []
    for key, cell in cells.items():
        line = [key[0], f"{key[1]:.0%}", str(max(row["seeds"] for row in cell.values()))]
        line += [_with_interval(cell.get(metric), share) for metric, _ in shown]
        if paper:
            figures = paper.get(key, {})
            line += [share(figures[metric]) if metric in figures else "" for metric, _ in shown]
        body.append(line)
    return Table(title, header, body)


def _counts(title: str, rows: Sequence[Row], columns: list[tuple[str, str, Format]]) -> Table:
    cells = _cells(rows)
    shown = [(m, label, fmt) for m, label, fmt in columns if any(m in cell for cell in cells.values())]
    body = [
        [key[0], f"{key[1]:.0%}", *(_plain(cell.get(metric), fmt) for metric, _, fmt in shown)]
        for key, cell in cells.items()
    ]
    return Table(title, ["method", "sparsity", *(label for _, label, _ in shown)], body)


def _plain(row: Row | None, fmt: Format) -> str:
    return "" if row is None else fmt(row["mean"])


def _with_interval(row: Row | None, fmt: Format) -> str:
    if row is None:
        return ""
    return fmt(row["mean"]) + (f" ± {fmt(row['ci95'])}" if row["ci95"] is not None else "")
