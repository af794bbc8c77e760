"""The comparison as tables: the same content for a terminal and for a Markdown page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report.rows import REFERENCES, Row
from tombola.lab.report.shown import Shown

Format = Callable[[float], str]
_LEADING_ZERO = re.compile(r"^([+-]?)0\.")


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

    Attributes:
        of: the heading under which it stands, together with the tables before it that have the same.
    """

    title: str
    header: list[str]
    body: list[list[str]]
    of: str = ""

    def rich(self) -> Shown:
        """For a terminal."""
        return Shown(self.title, self.header, self.body)

    def markdown(self) -> str:
        """For a page; headings stand above titles."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = "\n".join(f"| {' | '.join(line)} |" for line in [self.header, rule, *self.body])
        return f"{'####' if self.of else '###'} {self.title}\n\n{lines}\n"


def under_headings(made: Iterable[Table]) -> Iterator[tuple[str, list[Table]]]:
    """Neighbours of one heading together."""
    for of, tables in itertools.groupby(made, lambda table: table.of):
        yield of, list(tables)


def share(value: float) -> str:
    """A share with three digits, the leading zero dropped as in the paper.

    >>> share(0.7813), share(1.0), share(-0.2)
    ('.781', '1.000', '-.200')
    """
    return _LEADING_ZERO.sub(r"\1.", f"{value:.3f}")


def whole(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def decimal(value: float) -> str:
    """One decimal."""
    return f"{value:.1f}"


def decibel(value: float) -> str:
    """Two decimals."""
    return f"{value:.2f}"


def signed_share(value: float) -> str:
    """A difference of shares, its sign always shown.

    >>> signed_share(0.0213), signed_share(-0.2)
    ('+.021', '-.200')
    """
    return _LEADING_ZERO.sub(r"\1.", f"{value:+.3f}")


def signed_decibel(value: float) -> str:
    """A difference in decibels, its sign always shown."""
    return f"{value:+.2f}"


# What is printed with an interval, and how that is.
WIDTHS: dict[Format, Format] = {share: share, signed_share: share, decibel: decibel, signed_decibel: decibel}


LIKE = "like_for_like"  # the paper has no such reading, so its figures do not stand beside it
Columns = list[tuple[str, str, Format]]  # metric, heading, format


def _ahead(metric: str, label: str, fmt: Format) -> Columns:
    """What a metric is ahead of each single mask (`tombola.lab.report.rows.REFERENCES`)."""
    heads = {"imp": f"{label}: of imp", "union_size_imp": "of union size", "same_mask": "of same mask"}
    return [(f"{metric}_{REFERENCES[name]}", head, fmt) for name, head in heads.items()]


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
            ("accuracy_open", "acc. (all classes)", share),
            ("balanced_accuracy", "bal. acc.", share),
        ],
    ),
    (
        "Quality in decibels, and what a floor and a ceiling give",
        None,
        [
            ("psnr", "PSNR", decibel),
            ("psnr_region", "PSNR, mean of regions", decibel),
            ("psnr_floor", "one colour per region", decibel),
            ("si_snri", "SI-SNRi", decibel),
            ("si_snri_at_-5", "at -5 dB", decibel),
            ("si_snri_at_0", "at 0 dB", decibel),
            ("si_snri_at_5", "at 5 dB", decibel),
            ("si_snri_at_10", "at 10 dB", decibel),
            ("si_snr_noisy", "SI-SNR of the input", decibel),
        ],
    ),
    (
        "Ahead of a single mask (imp; union_size_imp; same_mask), like for like, differences within a seed",
        LIKE,
        [
            *_ahead("auc", "AUC", signed_share),
            *_ahead("accuracy", "accuracy", signed_share),
            *_ahead("balanced_accuracy", "bal. acc.", signed_share),
        ],
    ),
    (
        "Ahead of a single mask (imp; union_size_imp; same_mask), differences within a seed and item",
        None,
        [
            *_ahead("psnr", "PSNR", signed_decibel),
            *_ahead("psnr_region", "PSNR, mean of regions", signed_decibel),
            *_ahead("si_snri", "SI-SNRi", signed_decibel),
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
            ("reached", "runs that reached it", share),
        ],
    ),
]

BY_TICKET: Columns = [
    ("accuracy", "Accuracy", share),
    ("si_snri", "SI-SNRi", decibel),
    ("si_snri_lead", "SI-SNRi ahead of imp", signed_decibel),
    ("accuracy_lead", "Accuracy ahead of imp", signed_share),
]


def tables(rows: Sequence[Row]) -> list[Table]:
    """Both readings and all that is counted, with the paper's figures in columns of their own."""
    found: list[Table] = []
    for head in dict.fromkeys((row["experiment"], row.get("preset", "")) for row in rows):
        mine = [row for row in rows if (row["experiment"], row.get("preset", "")) == head]
        of = heading(head)
        over_all = [row for row in mine if "ticket" not in row]
        known = EXPERIMENTS.get(head[0])
        other_data = known is not None and known.stand_in and f"(on {known.stand_in})" in head[1]
        paper = {} if known is None or other_data else known.paper
        for title, reading, columns in TABLES:
            metrics = {metric for metric, _, _ in columns}
            part = [row for row in over_all if row.get("reading") == reading and row["metric"] in metrics]
            if part:
                found.append(_table(of, title, part, columns, {} if reading == LIKE else paper))
        found += [_by_ticket(of, mine, *column) for column in BY_TICKET]
    return [table for table in found if table.body]


def _by_ticket(of: str, rows: Sequence[Row], metric: str, label: str, fmt: Format) -> Table:
    """A table with a column per ticket."""
    mine = [{**row, "metric": row["ticket"]} for row in rows if row["metric"] == metric and "ticket" in row]
    columns = [(ticket, ticket, fmt) for ticket in dict.fromkeys(row["ticket"] for row in mine)]
    return _table(of, f"{label} by subset", mine, columns, {})


def _table(
    of: str,
    title: str,
    rows: Sequence[Row],
    columns: Columns,
    paper: Mapping[tuple[str, float], Mapping[str, float]],
) -> Table:
    cells: dict[tuple[str, float], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["sparsity"]), {})[row["metric"]] = row
    shown = [column for column in columns if any(column[0] in cell for cell in cells.values())]
    printed = {metric for key in cells for metric in paper.get(key, {})}
    beside = [column for column in shown if column[0] in printed]
    counted = ["seeds", "items"] if any("items" in row for row in rows) else ["seeds"]
    header = ["method", "sparsity", *counted, *(label for _, label, _ in shown)]
    header += [f"paper: {label}" for _, label, _ in beside]
    body = []
    for key, cell in cells.items():
        line = [key[0], f"{key[1]:.0%}"]
        seeds = max(row["seeds"] for row in cell.values())
        line += [str(max(row.get(name, 1) for row in cell.values())) for name in counted]
        line += [_value(cell.get(metric), fmt, seeds) for metric, _, fmt in shown]
        figures = paper.get(key, {})
        line += [fmt(figures[metric]) if metric in figures else "" for metric, _, fmt in beside]
        body.append(line)
    return Table(title, header, body, of)


def _value(row: Row | None, fmt: Format, seeds: int) -> str:
    """A mean, its interval, and over how many seeds where the line has more."""
    if row is None:
        return ""
    width = WIDTHS.get(fmt)
    fewer = f" (n = {row['seeds']})" if width and row["seeds"] < seeds else ""
    around = f" ± {width(row['ci95'])}" if width and row["ci95"] is not None else ""
    return fmt(row["mean"]) + around + fewer
