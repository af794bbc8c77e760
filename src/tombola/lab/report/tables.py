"""The comparison as tables: the same content for a terminal and for a Markdown page."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.table import Table as RichTable
from rich.text import Text

from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report.rows import REFERENCES, Row
from tombola.objectives.metrics import (
    LIKE_FOR_LIKE,
    METRICS,
    MetricInfo,
    decibel,
    decimal,
    metric_info,
    ordered,
    share,
    whole,
)

__all__ = [
    "Column", "Format", "Paper", "Table", "by_experiment", "by_outcome", "decibel", "decimal", "heading",
    "mean_and_half", "outcomes", "paper_of", "parts", "share", "tables", "under_headings", "whole",
]  # fmt: skip

Format = Callable[[float], str]
Paper = Mapping[tuple[str, float], Mapping[str, float]]  # figures by method and sparsity, then by metric
_BESIDE = 3  # signs between two columns of a terminal


def heading(head: tuple[str, str]) -> str:
    """An experiment and its preset, above the tables that are of them.

    >>> heading(("digits", "quick")), heading(("mine", ""))
    ('digits, preset quick', 'mine')
    """
    experiment, preset = head
    return f"{experiment}, preset {preset}" if preset else experiment


@dataclass(frozen=True)
class Table:
    """A title, a header, and rows of text.

    On a terminal that is too narrow it is printed in parts, one below the other, and each begins with the
    columns that say whose the numbers are.
    """

    title: str
    header: list[str]
    body: list[list[str]]
    of: str = ""  # the heading under which it stands, with the tables before it that have the same

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | RichTable]:
        """For a terminal: the caption over its whole width, and no column cut off."""
        yield Text(f"\n{self.title}", style="bold")
        for columns in parts(self.header, self.body, options.max_width):
            table = RichTable(box=SIMPLE_HEAD)
            for i in columns:
                table.add_column(Text(self.header[i]), justify="left" if i == 0 else "right", no_wrap=True)
            for line in self.body:
                table.add_row(*(Text(line[i]) for i in columns))
            yield table

    def markdown(self) -> str:
        """For a page; headings stand above titles."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = "\n".join(f"| {' | '.join(line)} |" for line in [self.header, rule, *self.body])
        return f"{'####' if self.of else '###'} {self.title}\n\n{lines}\n"


def parts(header: Sequence[str], body: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Numbers of columns that fit beside each other; the first ones are in every part.

    >>> parts(["method", "sparsity", "union", "core"], [["rtl", "50%", "1,000", "900"]], 30)
    [[0, 1, 2], [0, 1, 3]]
    """
    wide = [max(len(line[i]) for line in (header, *body)) + _BESIDE for i in range(len(header))]
    keys = list(range(2 if list(header[:2]) == ["method", "sparsity"] else 1))
    found = [list(keys)]
    for i in range(len(keys), len(header)):
        if len(found[-1]) > len(keys) and sum(wide[j] for j in [*found[-1], i]) + 1 > width:
            found.append(list(keys))
        found[-1].append(i)
    return found


def under_headings(made: Iterable[Table]) -> Iterator[tuple[str, list[Table]]]:
    """Neighbours of one heading together."""
    for of, tables in itertools.groupby(made, lambda table: table.of):
        yield of, list(tables)


# -- lines of rows -------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A metric in a table: its heading, how it is written, and half its interval, if that is to be seen."""

    metric: str
    heading: str
    write: Format
    half: Format | None = None

    @classmethod
    def of(cls, name: str) -> Column:
        """The column of a metric as the table of metrics has it."""
        info = metric_info(name)
        return cls(name, info.column, info.write, info.write if info.spread else None)

    def text(self, row: Row | None, seeds: int = 0) -> str:
        """The cell of a row, which says over how many seeds it is if these are more; empty without one."""
        if row is None or self.half is None:
            return self.write(row["mean"]) if row else ""
        few = f" (n = {row['seeds']})" if row.get("seeds", seeds) < seeds else ""
        return mean_and_half(row, self.write, self.half) + few


def by_experiment(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by experiment and preset."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["experiment"], row.get("preset", "")), []).append(row)
    return found


def by_outcome(rows: Iterable[Row], *names: str) -> dict[tuple, dict[str, Row]]:
    """Rows by the values of some fields, then by metric."""
    cells: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row.get(name, "") for name in names), {})[row["metric"]] = row
    return cells


def outcomes(
    title: str,
    rows: Iterable[Row],
    keys: Mapping[str, str],
    columns: Iterable[Column],
    counts: Mapping[str, str] = {},
    of: str = "",
) -> Table:
    """A line per outcome: fields that tell outcomes apart and counts, by their headings, then each metric.

    Rows of other metrics are passed over, and a metric that no outcome has gets no column.
    """
    columns = list(columns)
    known = {column.metric for column in columns}
    cells = by_outcome((row for row in rows if row["metric"] in known), *keys.values())
    shown = [column for column in columns if any(column.metric in cell for cell in cells.values())]
    body = []
    for values, cell in cells.items():
        most = {name: max(row.get(name, 1) for row in cell.values()) for name in ("seeds", "items")}
        told = [*map(_field, keys.values(), values), *(str(most[name]) for name in counts.values())]
        body.append([*told, *(column.text(cell.get(column.metric), most["seeds"]) for column in shown)])
    return Table(title, [*keys, *counts, *(column.heading for column in shown)], body, of)


def _field(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0%}" if name == "sparsity" else f"{value:g}"


def mean_and_half(row: Row | None, fmt: Format, half: Format | None = None) -> str:
    """A mean ± half its 95% interval; nothing without a row.

    >>> mean_and_half({"mean": 0.5, "ci95": 0.01}, share), mean_and_half({"mean": 0.5, "ci95": None}, share)
    ('0.500 ± 0.010', '0.500')
    """
    if row is None:
        return ""
    return fmt(row["mean"]) + (f" ± {(half or fmt)(row['ci95'])}" if row["ci95"] is not None else "")


def paper_of(head: tuple[str, str]) -> Paper:
    """The paper's figures of an experiment, unless something stands in for the data."""
    known = EXPERIMENTS.get(head[0])
    if known is None or (known.stand_in and f"(on {known.stand_in})" in head[1]):
        return {}
    return known.paper


# -- the tables of a comparison ------------------------------------------------------------------------------

PAPER_READING = "The paper's reading: tickets at probability one half, single networks at their argmax"
LIKE = "Like for like: one score matrix, one reading; thresholds and coupling from validation data"
AHEAD = "Ahead of a single mask (imp; union_size_imp; same_mask)"
STORED, SIMILAR = "What is stored", "Similarity of the masks, and cost"


def tables(rows: Sequence[Row]) -> list[Table]:
    """Both readings and all that is counted, with the paper's figures in columns of their own."""
    found: list[Table] = []
    for head, mine in by_experiment(rows).items():
        over_all = [row for row in mine if "ticket" not in row]
        of, known = heading(head), ordered([*METRICS, *(row["metric"] for row in mine)])
        for title, reading, columns in _layout(known):
            part = [row for row in over_all if row.get("reading") == reading]
            paper = {} if reading == LIKE_FOR_LIKE else paper_of(head)  # which has no such reading
            found.append(_table(of, title, part, columns, paper))
        for info in known:
            found += _by_ticket(of, mine, info) if info.by_subset else []
    return [table for table in found if table.body]


def _layout(known: Sequence[MetricInfo]) -> list[tuple[str, str | None, list[Column]]]:
    """Title, reading and columns of each table; rows of counts and costs have no reading."""
    ahead = [column for info in known if info.headline for column in _leads(info)]
    decibels = [info for info in known if info.format == "decibel"]

    def of(table: str, reading: str = "", among: Sequence[MetricInfo] = known) -> list[Column]:
        shown = [i for i in among if i.table == table and (not i.readings or reading in i.readings)]
        return [Column.of(info.name) for info in shown]

    return [
        (PAPER_READING, "paper", of("quality", "paper")),
        (LIKE, LIKE_FOR_LIKE, of("quality", LIKE_FOR_LIKE)),
        ("Quality in decibels, and what a floor and a ceiling give", None, of("quality", among=decibels)),
        ("Quality", None, of("quality", among=[info for info in known if info not in decibels])),
        (f"{AHEAD}, like for like, differences within a seed", LIKE_FOR_LIKE, ahead),
        (f"{AHEAD}, differences within a seed and item", None, ahead),
        (STORED, None, of("stored")),
        (SIMILAR, None, of("cost")),
    ]


def _leads(info: MetricInfo) -> list[Column]:
    """By how much a metric is ahead of each single mask."""
    heads = [f"{info.column}: of imp", "of union size", "of same mask", "of same mask, union size"]
    heads += ["of told", "of a network each", "of adapters"]
    named = zip(REFERENCES.values(), heads, strict=True)
    return [
        Column(f"{info.name}_{suffix}", head, info.write_difference, info.write) for suffix, head in named
    ]


def _by_ticket(of: str, rows: Sequence[Row], info: MetricInfo) -> list[Table]:
    """Tables with a column per ticket: values, and what they are ahead of imp."""
    name, made = info.column[0].upper() + info.column[1:], []
    for metric, title, fmt in (
        (info.name, f"{name} by subset", info.write),
        (f"{info.name}_lead", f"{name} ahead of imp by subset", info.write_difference),
    ):
        mine = [{**r, "metric": r["ticket"]} for r in rows if r["metric"] == metric and "ticket" in r]
        columns = [Column(t, t, fmt, info.write) for t in dict.fromkeys(row["ticket"] for row in mine)]
        made.append(_table(of, title, mine, columns, {}))
    return made


def _table(of: str, title: str, rows: Sequence[Row], columns: Sequence[Column], paper: Paper) -> Table:
    """A line per method and sparsity; figures of the paper stand beside metrics that were measured."""
    rows = [row for row in rows if row["metric"] in {column.metric for column in columns}]
    counts = ("seeds", "items") if any("items" in row for row in rows) else ("seeds",)
    measured = {row["metric"] for row in rows}
    printed = [
        {"method": arm[0], "sparsity": arm[1], "metric": f"paper: {metric}", "mean": value, "ci95": None}
        for arm in dict.fromkeys((row["method"], row["sparsity"]) for row in rows)
        for metric, value in paper.get(arm, {}).items()
        if metric in measured
    ]
    beside = [Column(f"paper: {c.metric}", f"paper: {c.heading}", c.write) for c in columns]
    keys = {"method": "method", "sparsity": "sparsity"}
    return outcomes(title, [*rows, *printed], keys, [*columns, *beside], {name: name for name in counts}, of)
