"""The chapter on routing: what `tombola route` measured and kept in a file beside the runs."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.lab.report import kept
from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.figures import Axis, Figure, Series, Style, percent, xy
from tombola.lab.report.findings import Findings
from tombola.lab.report.heatmap import heat
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Format, Table, decibel, share

FILE = "routing.json"
_METRICS: dict[str, tuple[str, Format]] = {
    "accuracy": ("accuracy", share),
    "si_snri": ("SI-SNRi, dB", decibel),
    "psnr": ("PSNR, dB", decibel),
}
_REFERENCES = {
    "best_fixed": "best fixed ticket",
    "random": "a random ticket",
    "dense": "dense network",
    "imp": "single mask (imp)",
    "union_size_imp": "single mask of the union's size",
}
_CHANCE = ("oracle", *_REFERENCES)


def chapter(found: Findings) -> list[Block]:
    """Nothing where no such file is there, or where it is of other runs."""
    rows = kept.rows(found, FILE)
    plain = [row for row in rows if "window" not in row and "context" not in row]
    routers = [name for name in dict.fromkeys(row["router"] for row in plain) if _is_router(name)]
    metric = next((m for m in _METRICS if any(row["metric"] == m for row in plain)), None)
    if not routers or metric is None:
        return []
    blocks: list[Block] = [Words(_words(plain, routers, metric))]
    drawn = [_gaps(plain, routers), *_confusions(rows, routers)]
    return [*blocks, Figures([each for each in drawn if each is not None]), Tabled(_table(plain, metric))]


def _is_router(name: str) -> bool:
    return not name.startswith(_CHANCE)


def _value(rows: Sequence[Row], sparsity: float, router: str, metric: str) -> Row | None:
    here = (
        row for row in rows if (row["sparsity"], row["router"], row["metric"]) == (sparsity, router, metric)
    )
    return next(here, None)


def _words(rows: Sequence[Row], routers: Sequence[str], metric: str) -> list[str]:
    sparsity, (label, fmt), first = kept.middle(rows), _METRICS[metric], routers[0]
    names = {"oracle": "the right ticket, given", first: f"the {first} router", **_REFERENCES}
    told = []
    for who, name in names.items():
        row = _value(rows, sparsity, who, metric)
        if row is not None:
            told.append(f"{name} {fmt(row['mean'])}")
    right, gap = (
        _value(rows, sparsity, first, "routing_accuracy"),
        _value(rows, sparsity, first, "gap_closed"),
    )
    lines = [f"Where nobody names the ticket, at {sparsity:.0%} removed, {label}: {', '.join(told)}."]
    if right is not None:
        lines.append(f"The {first} router finds the right ticket for {right['mean']:.1%} of the samples.")
    if gap is not None:
        lines.append(
            f"It closes {share(gap['mean'])} of the gap between the best fixed ticket (0) and the oracle (1)."
        )
    return lines


def _gaps(rows: Sequence[Row], routers: Sequence[str]) -> Figure | None:
    """Gap closed over sparsity, a line per router; references as hollow ones."""
    shown = [*routers, *(name for name in _REFERENCES if name != "best_fixed")]
    series = []
    for i, name in enumerate(shown):
        own = [row for row in rows if (row["router"], row["metric"]) == (name, "gap_closed")]
        points = [(r["sparsity"], r["mean"], r["ci95"]) for r in sorted(own, key=lambda r: r["sparsity"])]
        series.append(Series(_REFERENCES.get(name, name), Style(i, hollow=name in _REFERENCES), points))
    series = [each for each in series if each.points]
    if not series:
        return None
    levels = sorted({row["sparsity"] for row in rows})
    x, y = Axis("share of weights removed", percent, levels), Axis("gap closed", share)
    return xy("Gap between the best fixed ticket (0) and the oracle (1)", series, x, y)


def _confusions(rows: Sequence[Row], routers: Sequence[str]) -> list[Figure]:
    """Which context goes to which ticket by the first router, which is the default one, per sparsity."""
    figures = []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        mine = [r for r in rows if "context" in r and (r["sparsity"], r["router"]) == (sparsity, routers[0])]
        if mine:
            names = list(dict.fromkeys(row["ticket"] for row in mine))
            at = {(row["context"], row["ticket"]): row["mean"] for row in mine}
            matrix = [[at[a, b] for b in names] for a in names]
            title = f"Context (down) to ticket (across): {routers[0]}, {sparsity:.0%} removed"
            figures.append(heat(title, names, names, matrix, (0.0, 1.0), share))
    return figures


def _table(rows: Sequence[Row], metric: str) -> Table:
    label, fmt = _METRICS[metric]
    columns: list[tuple[str, str, Format]] = [
        (metric, label, fmt),
        ("gap_closed", "gap closed", share),
        ("routing_accuracy", "right ticket", share),
        ("confidence", "confidence", share),
    ]
    body = []
    for sparsity, who in dict.fromkeys((row["sparsity"], row["router"]) for row in rows):
        cells = [_value(rows, sparsity, who, name) for name, _, _ in columns]
        written = [_cell(cell, each[2]) for cell, each in zip(cells, columns, strict=True)]
        body.append([str(_REFERENCES.get(who, who)), f"{sparsity:.0%}", *written])
    header = ["who answers", "removed", *(label for _, label, _ in columns)]
    return Table("Who chooses the ticket", header, body)


def _cell(row: Row | None, fmt: Format) -> str:
    if row is None:
        return ""
    return fmt(row["mean"]) + (f" ± {fmt(row['ci95'])}" if row["ci95"] is not None else "")
