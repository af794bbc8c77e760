"""Quality against bytes per task, and who is behind nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tombola.lab.report.points import Points, label_points
from tombola.lab.report.rows import Row
from tombola.objectives.metrics import metric_info

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES = {"bytes_per_task": "MB stored per task, beside the base", "bytes_total": "MB stored in all"}


def figure(made: Sequence[Row], experiment: str, preset: str) -> Figure:
    """A point per rival with its interval, a panel per size, a line through those that nobody beats."""
    from matplotlib.figure import Figure

    mine = [row for row in made if (row["experiment"], row["preset"]) == (experiment, preset)]
    quality = mine[0]["metric"]
    better = 1 if metric_info(quality).higher_is_better else -1
    several = {row["method"] for row in mine for other in mine if _differ(row, other)}
    named = [(row["method"] + f" {row['sparsity']:.0%}" * (row["method"] in several), row) for row in mine]
    cells = {(name, row["metric"]): row for name, row in named}
    names = list(dict.fromkeys(name for name, _ in named))
    halves = {name: cells[name, quality]["ci95"] or 0.0 for name in names}
    drawn = Figure(figsize=(8, 5 * len(SIZES)), layout="constrained")
    panels = []
    for axes, (size, label) in zip(drawn.subplots(len(SIZES), 1), SIZES.items(), strict=True):
        points = {name: (cells[name, size]["mean"] / 1e6, cells[name, quality]["mean"]) for name in names}
        _scatter(axes, points, halves, better)
        axes.set(xlabel=label, ylabel=quality)
        panels.append((axes, points))
    drawn.draw_without_rendering()  # where names have room is known once axes have their places
    for axes, points in panels:
        label_points(axes, points, dict.fromkeys(pareto(points, better), "C0"))
    return drawn


def _scatter(axes: Axes, points: Points, halves: Mapping[str, float], better: int) -> None:
    """Points with their half intervals, over a logarithm of bytes in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    best, sizes = pareto(points, better), [x for x, _ in points.values()]
    for name, (x, y) in points.items():
        axes.errorbar(x, y, halves[name], fmt="o", color="C0" if name in best else "grey", capsize=2)
    axes.plot(*zip(*(points[name] for name in best), strict=True), color="C0", alpha=0.4)
    axes.set_xscale("log")
    wide = max(sizes) > 1e3 * min(sizes)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)


def _differ(row: Row, other: Row) -> bool:
    """Whether two rows are of one rival at two sparsities."""
    return row["method"] == other["method"] and row["sparsity"] != other["sparsity"]


def pareto(points: Points, better: int = 1) -> list[str]:
    """Who has better quality than everyone of the same size or less, smallest first; -1 where less is better.

    >>> pareto({"a": (1, 0.5), "b": (2, 0.4), "c": (3, 0.9)})
    ['a', 'c']
    """
    best: list[str] = []
    quality = {name: better * y for name, (_, y) in points.items()}
    for name in sorted(points, key=lambda name: (points[name][0], -quality[name])):
        if not best or quality[name] > quality[best[-1]]:
            best.append(name)
    return best
