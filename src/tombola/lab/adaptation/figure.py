"""Quality against bytes per task, and who is behind nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tombola.lab.report.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = {"bytes_per_task": "MB stored per task, beside the base", "bytes_total": "MB stored in all"}


def figure(made: Sequence[Row], experiment: str, preset: str) -> Figure:
    """A point per rival with its interval, a panel per size, a line through those that nobody beats."""
    from matplotlib.figure import Figure

    mine = [row for row in made if (row["experiment"], row["preset"]) == (experiment, preset)]
    quality = mine[0]["metric"]
    several = {row["method"] for row in mine for other in mine if _differ(row, other)}
    named = [(row["method"] + f" {row['sparsity']:.0%}" * (row["method"] in several), row) for row in mine]
    cells = {(name, row["metric"]): row for name, row in named}
    names = list(dict.fromkeys(name for name, _ in named))
    drawn = Figure(figsize=(6.5 * len(SIZES), 4.8), layout="constrained")
    for axes, (size, label) in zip(drawn.subplots(1, len(SIZES)), SIZES.items(), strict=True):
        points = {name: (cells[name, size]["mean"] / 1e6, cells[name, quality]["mean"]) for name in names}
        best = pareto(points)
        for i, (name, (x, y)) in enumerate(sorted(points.items(), key=lambda point: point[1])):
            colour = "C0" if name in best else "grey"
            axes.errorbar(x, y, cells[name, quality]["ci95"] or 0.0, fmt="o", color=colour, capsize=2)
            place = 4, (4, -12)[i % 2]  # neighbours above and below
            axes.annotate(name, (x, y), place, fontsize="small", textcoords="offset points", color=colour)
        axes.plot(*zip(*(points[name] for name in best), strict=True), color="C0", alpha=0.4)
        axes.set_xscale("log")
        axes.set(xlabel=label, ylabel=quality)
        axes.margins(x=0.2)
        axes.grid(alpha=0.3)
    return drawn


def _differ(row: Row, other: Row) -> bool:
    """Whether two rows are of one rival at two sparsities."""
    return row["method"] == other["method"] and row["sparsity"] != other["sparsity"]


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Who has more quality than everyone of the same size or less, smallest first.

    >>> pareto({"a": (1, 0.5), "b": (2, 0.4), "c": (3, 0.9)})
    ['a', 'c']
    """
    best: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not best or points[name][1] > points[best[-1]][1]:
            best.append(name)
    return best
