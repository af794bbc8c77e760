"""The comparison as tables: the same content for a terminal and for a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
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
        table = RichTable(title=f"\n{self.title}", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
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


LIKE = "like_for_like"  # the paper has no such reading, so its figures do not stand beside it
Columns = list[tuple[str, str, Format]]  # metric, heading, format

# (title, reading, columns); rows of counts and costs have no reading.
TABLES: list[tuple[str, str | None, Columns]] = [
    (
        "The paper's reading: tickets at probability one half, single networks at their argmax",
        "paper",
        [
            ("balanced_accuracy", "bal. acc.", share),
            ("precision", "precision", share),
            ("recall", "recall", share),
        ],
    ),
    (
        "Like for like: one score matrix, one reading; thresholds and coupling from validation data",
        LIKE,
        [
            ("auc", "AUC", share),
            ("average_precision", "avg. precision", share),
            ("accuracy", "accuracy", share),
            ("accuracy_argmax", "acc. (argmax)", share),
            ("balanced_accuracy", "bal. acc.", share),
        ],
    ),
    (
        "What is stored",
        None,
        [
            ("per_ticket", "per ticket", whole),
            ("union", "union", whole),
            ("core", "core", whole),
            ("private", "private", whole),
            ("dense_rest", "rest", whole),
            ("mask_bytes", "mask bytes", whole),
            ("file_bytes", "file bytes", whole),
        ],
    ),
    (
        "Similarity of the masks, and cost",
        None,
        [
            ("jaccard", "mean J", share),
            ("kappa", "kappa", share),
            ("kappa_twin", "kappa, twins", share),
            ("samples_search", "samples: search", whole),
            ("samples_train", "training", whole),
            ("minutes", "minutes", decimal),
        ],
    ),
]


def tables(rows: Sequence[Row]) -> list[Table]:
    """Both readings and all that is counted, with the paper's figures in columns of their own."""
    found: list[Table] = []
    for head in dict.fromkeys((row["experiment"], row.get("preset", "")) for row in rows):
        mine = [row for row in rows if (row["experiment"], row.get("preset", "")) == head]
        name = f"{head[0]}, preset {head[1]}" if head[1] else head[0]
        paper = EXPERIMENTS[head[0]].paper if head[0] in EXPERIMENTS else {}
        for title, reading, columns in TABLES:
            metrics = {metric for metric, _, _ in columns}
            part = [row for row in mine if row.get("reading") == reading and row["metric"] in metrics]
            if part:
                found.append(_table(f"{name}. {title}", part, columns, {} if reading == LIKE else paper))
    return found


def _table(
    title: str, rows: Sequence[Row], columns: Columns, paper: Mapping[tuple[str, float], Mapping[str, float]]
) -> Table:
    cells: dict[tuple[str, float], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["sparsity"]), {})[row["metric"]] = row
    shown = [column for column in columns if any(column[0] in cell for cell in cells.values())]
    printed = {metric for key in cells for metric in paper.get(key, {})}
    beside = [column for column in shown if column[0] in printed]
    header = ["method", "sparsity", "seeds", *(label for _, label, _ in shown)]
    header += [f"paper: {label}" for _, label, _ in beside]
    body = []
    for key, cell in cells.items():
        line = [key[0], f"{key[1]:.0%}", str(max(row["seeds"] for row in cell.values()))]
        line += [_value(cell.get(metric), fmt) for metric, _, fmt in shown]
        figures = paper.get(key, {})
        line += [fmt(figures[metric]) if metric in figures else "" for metric, _, fmt in beside]
        body.append(line)
    return Table(title, header, body)


def _value(row: Row | None, fmt: Format) -> str:
    if row is None:
        return ""
    uncertain = fmt is share and row["ci95"] is not None
    return f"{fmt(row['mean'])} ± {fmt(row['ci95'])}" if uncertain else fmt(row["mean"])
