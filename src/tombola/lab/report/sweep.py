"""The page of a sweep: sparsity against quality, and quality over a grid of two settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tombola._utils.io import write_bytes
from tombola.lab.report.blocks import Block, Charts, Section, Tabled
from tombola.lab.report.charts import REMOVED, Axis, Chart, curves, heat, lines, percent, save
from tombola.lab.report.curves import measure, values
from tombola.lab.report.html import render
from tombola.lab.report.page import write_rows
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, mean_and_half
from tombola.lab.sweep import label
from tombola.methods.table import METHODS
from tombola.objectives.metrics import metric_info

Grid = Sequence[tuple[Mapping[str, str], Sequence[Row]]]  # the values of each point and its rows


def chart(rows: Sequence[Row], metric: str, title: str) -> Chart:
    """Quality over sparsity, a line per method; controls are dashed, what is not pruned is a level line."""
    info, by_method = metric_info(metric), values(rows, metric)
    return lines(title, curves(by_method), REMOVED, Axis(info.inside, info.write), list(by_method))


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


def heats(points: Grid, metric: str, methods: Sequence[str]) -> list[Chart]:
    """For a grid over two settings, a heat map per method and sparsity; none for another grid."""
    names = list(points[0][0])
    if len(names) != 2:
        return []
    found = [
        {name: f"{name}={value}" for name, value in at.items()} | row
        for at, rows in points
        for method, own in values(rows, metric).items()
        for row in (own if method in methods else ())
    ]
    info, charts = metric_info(metric), []
    for (name, sparsity), cells in pd.DataFrame(found).groupby(["method", "sparsity"], sort=False):
        title = f"{name} at {percent(sparsity)}: {info.inside} over {names[0]} (down) and {names[1]}"
        cells = cells.pivot_table("mean", *names, sort=False)
        charts.append(heat(title, {"": cells}, Axis(info.inside, info.write)))
    return charts


def write_sweep(
    folder: Path, title: str, points: Grid, methods: Sequence[str], metric: str | None = None
) -> list[Path]:
    """Write ``sweep.html``, ``sweep.json`` and the charts as SVG; returns the files.

    Heat maps are of ``methods``; drawn is ``metric``, or the first primary one that there is.
    """
    metric = measure([row for _, rows in points for row in rows], metric)
    maps = heats(points, metric, methods)
    chapters: dict[str, list[Block]] = {"The grid": [Charts(maps)]} if maps else {}
    pictures = {f"heat-{number}.svg": each for number, each in enumerate(maps)}
    for number, (at, rows) in enumerate(points):
        name = label(at) or "Sparsity and quality"
        numbers = table(rows, metric, f"{metric_info(metric).inside}, {name}")
        drawn = chart(rows, metric, name)
        chapters[name] = [Charts([drawn]), Tabled(numbers, folded=False)]
        pictures[f"sweep{f'-{number}' if len(points) > 1 else ''}.svg"] = drawn
    for name, picture in pictures.items():
        save([[picture]], folder / name)
    stored = [({"grid": dict(at)} if at else {}) | row for at, rows in points for row in rows]
    write_rows(folder / "sweep.json", stored)
    write_bytes(folder / "sweep.html", render([Section(title, chapters)]).encode())
    return [folder / name for name in (*pictures, "sweep.json", "sweep.html")]
