"""Sparsity against quality, and quality over a grid of two settings: the page of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tombola._utils.errors import UsageError, unknown
from tombola._utils.io import write_bytes
from tombola.lab.report import kept
from tombola.lab.report.blocks import Block, Chapter, Figures, Section, Tabled
from tombola.lab.report.figures import Axis, Figure, Series, Style, el, percent, text, xy
from tombola.lab.report.heat import heat
from tombola.lab.report.html import render
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, mean_and_half
from tombola.methods.table import METHODS
from tombola.objectives.metrics import LIKE_FOR_LIKE, metric_info, ordered

Grid = Sequence[tuple[Mapping[str, str], Sequence[Row]]]  # the values of each point and its rows

# Colours of a file that stands alone: those of the report's style sheet on paper.
_STYLE = """text{fill:#1c1f24;font:12px system-ui,sans-serif}.small{font-size:11px}.label{fill:#4d5560}
.on-light{fill:#111;font-size:10px}.on-dark{fill:#fff;font-size:10px}.grid{stroke:#d9dce0}.edge{stroke:#4d5560}
.line{fill:none;stroke-width:2}.mark{stroke-width:2}.hollow{stroke-dasharray:6 4;stroke-width:1.4}
.k0{stroke:#0069a8;fill:#0069a8}.k1{stroke:#c2410c;fill:#c2410c}.k2{stroke:#00795a;fill:#00795a}
.k3{stroke:#3d434b;fill:#3d434b}.k4{stroke:#9a3d86;fill:#9a3d86}.k5{stroke:#80600a;fill:#80600a}
polyline.line{fill:none}.mark.hollow{fill:#fcfcfa;stroke-dasharray:none}"""


def measure(rows: Sequence[Row], wanted: str | None = None) -> str:
    """The measure that is drawn: the one asked for, which must be there, or the first that decides."""
    there = dict.fromkeys(row["metric"] for row in rows if "ticket" not in row)
    deciding = [info for info in ordered(there) if info.headline]
    names = [info.name for info in sorted(deciding, key=lambda info: not info.primary)]
    names += [name for name in there if name not in names]
    if wanted is not None and wanted not in names:
        raise UsageError(unknown("metric of a curve", wanted, names))
    return wanted or names[0]


def values(rows: Sequence[Row], metric: str) -> dict[str, list[Row]]:
    """Rows of one measure by method, lowest sparsity first; where there are two readings, the common one."""
    chosen = [r for r in rows if r["metric"] == metric and not r.get("ticket")]
    both = {r.get("reading", "") for r in chosen}
    reading = LIKE_FOR_LIKE if LIKE_FOR_LIKE in both else next(iter(both), "")
    mine = sorted((r for r in chosen if r.get("reading", "") == reading), key=lambda r: r["sparsity"])
    found = {name: [r for r in mine if r["method"] == name] for name in METHODS}
    return {name: own for name, own in found.items() if own}


def curve(rows: Sequence[Row], metric: str, title: str) -> Figure:
    """Quality over sparsity, a line per method; controls are dashed, what is not pruned is a level line."""
    info, by_method = metric_info(metric), values(rows, metric)
    levels = sorted({r["sparsity"] for r in rows if r["sparsity"]})
    series = []
    for i, (name, own) in enumerate(by_method.items()):  # by place: numbers of methods repeat their colours
        points = kept.points(own)
        if [r["sparsity"] for r in own] == [0.0] and levels:
            points = [(level, *points[0][1:]) for level in (levels[0], levels[-1])][: len(levels)]
        series.append(Series(name, Style(i, hollow=METHODS[name].control), points))
    return xy(title, series, Axis("sparsity", percent, levels), Axis(info.inside, info.write))


def table(rows: Sequence[Row], metric: str, title: str) -> Table:
    """The same in numbers: a row per method, a column per sparsity, mean and half the 95% interval."""
    info, by_method = metric_info(metric), values(rows, metric)
    levels = sorted({r["sparsity"] for own in by_method.values() for r in own})
    body = []
    for name, own in by_method.items():
        at = {r["sparsity"]: r for r in own}
        cells = [mean_and_half(at.get(level), info.write) for level in levels]
        seeds = max(r["seeds"] for r in own)
        body.append([f"{name} (control)" if METHODS[name].control else name, *cells, str(seeds)])
    heads = ["dense" if level == 0 else percent(level) for level in levels]
    return Table(title, [info.inside, *heads, "seeds"], body)


def heats(points: Grid, metric: str, methods: Sequence[str]) -> list[Figure]:
    """For a grid over two settings, a heat map per method and sparsity; none for another grid."""
    names = list(points[0][0])
    if len(names) != 2:
        return []
    info = metric_info(metric)
    down, across = (list(dict.fromkeys(at[name] for at, _ in points)) for name in names)
    cells: dict[tuple[str, float], dict[tuple[str, str], float]] = {}
    for at, rows in points:
        for name, own in values(rows, metric).items():
            for row in own if name in methods else ():
                cells.setdefault((name, row["sparsity"]), {})[at[names[0]], at[names[1]]] = row["mean"]
    figures = []
    for (name, sparsity), found in cells.items():
        matrix = [[found.get((r, c), float("nan")) for c in across] for r in down]
        limits = min(found.values()), max(found.values())
        title = f"{name} at {percent(sparsity)}: {info.inside} over {names[0]} (down) and {names[1]}"
        beside, below = [f"{names[0]}={r}" for r in down], [f"{names[1]}={c}" for c in across]
        figures.append(heat(title, beside, below, matrix, limits, info.write))
    return figures


def standalone(figure: Figure) -> str:
    """A figure as an SVG file of its own, with its legend below."""
    rows, parts = -(-len(figure.legend) // 2), [el("style", _STYLE), el("title", figure.title), figure.body]
    for i, (sample, name) in enumerate(figure.legend):
        x, y = 20 + (i % 2) * figure.width / 2, figure.height + 6 + 18 * (i // 2)
        parts.append(el("g", sample + text(36, 11, name), transform=f"translate({x:g} {y:g})"))
    high = figure.height + 12 + 18 * rows
    box = f"0 0 {figure.width:g} {high:g}"
    paper = el("rect", width=figure.width, height=high, fill="#fcfcfa")
    return el("svg", paper + "".join(parts), xmlns="http://www.w3.org/2000/svg", viewBox=box) + "\n"


def write_sweep(
    folder: Path, title: str, points: Grid, methods: Sequence[str], metric: str | None = None
) -> list[Path]:
    """Write ``sweep.html``, ``sweep.json`` and the figures as SVG; returns the files.

    Heat maps are of ``methods``; drawn is ``metric``, or the first primary one that there is.
    """
    metric = measure([row for _, rows in points for row in rows], metric)
    chapters, files = [], []
    for number, (at, rows) in enumerate(points):
        name = ", ".join(f"{k}={v}" for k, v in at.items()) or "Sparsity and quality"
        drawn = curve(rows, metric, name)
        numbers = table(rows, metric, f"{metric_info(metric).inside}, {name}")
        blocks: list[Block] = [Figures([drawn]), Tabled(numbers, folded=False)]
        chapters.append(Chapter(name, blocks))
        files.append((f"sweep{f'-{number}' if len(points) > 1 else ''}.svg", standalone(drawn)))
    if maps := heats(points, metric, methods):
        chapters.insert(0, Chapter("The grid", [Figures(maps)]))
        files += [(f"heat-{number}.svg", standalone(figure)) for number, figure in enumerate(maps)]
    stored = [({"grid": dict(at)} if at else {}) | row for at, rows in points for row in rows]
    lines = ",\n".join(json.dumps(row) for row in stored)
    files += [("sweep.json", f"[\n{lines}\n]\n"), ("sweep.html", render([Section(title, chapters)]))]
    for name, content in files:
        write_bytes(folder / name, content.encode())
    return [folder / name for name, _ in files]
