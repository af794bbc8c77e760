"""Curves for a paper or a notebook: quality over sparsity as a figure of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tombola._utils.errors import RunError, UsageError, unknown
from tombola.lab.report.rows import KEY, Row, averaged
from tombola.lab.report.tables import heading
from tombola.lab.results import Source, results
from tombola.methods.table import METHODS
from tombola.objectives.metrics import LIKE_FOR_LIKE, READINGS, MetricInfo, metric_info, ordered

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX<>*hp"
HIGH, WIDE = 4.2, 7.0  # inches of a panel
MOST_TICKS = 8  # levels of sparsity that are written below the axis


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


def curves(source: Source | pd.DataFrame, metric: str | None = None) -> Figure:
    """Quality over sparsity, a line per method, as a figure of matplotlib.

    Means over seeds (over items, where there are several) with their 95% intervals; like for like, where
    there are two readings. Controls are dashed; what is not pruned is a level line. Runs of several
    experiments or settings get a panel each. No state of pyplot is touched: the figure is saved with
    ``figure.savefig``, and a notebook shows it.

    Args:
        source: what `tombola.results` takes, or its frame, which may be filtered: ``frame[frame.seed < 3]``.
        metric: the measure, any that there is over all tickets; by default the first that comparisons are
            decided by.

    Raises:
        RunError: nothing was measured.
        UsageError: a frame of something else, or no such metric; the message lists those that there are.

    >>> from tombola.methods.result import Outcome
    >>> from tombola.objectives import Metric
    >>> found = [Outcome("imp", s, [], [Metric("accuracy", 1 - s)]) for s in (0.25, 0.5)]
    >>> curves(found).axes[0].get_ylabel()
    'accuracy'
    """
    import pandas as pd
    from matplotlib.figure import Figure  # only here: both take half a second to import

    frame = source if isinstance(source, pd.DataFrame) else results(source)
    if lacking := [name for name in (*KEY, "item", "seed", "value") if name not in frame.columns]:
        raise UsageError(f"a frame of tombola.results has a column {lacking[0]}; this one was changed")
    rows = averaged(frame.to_dict("records"))
    if not rows:
        raise RunError("nothing was measured: there is no outcome in these results")
    info = metric_info(measure(rows, metric))
    heads = dict.fromkeys(_head(row) for row in rows if row["metric"] == info.name)
    figure = Figure(figsize=(WIDE * len(heads), HIGH), layout="constrained")
    panels = figure.subplots(1, len(heads), squeeze=False)[0]
    for axes, head in zip(panels, heads, strict=True):
        _draw(axes, [row for row in rows if _head(row) == head], info)
        axes.set_title(heading(head), fontsize="medium", wrap=True)
    return figure


def _head(row: Row) -> tuple[str, str]:
    """Experiment and preset."""
    return row.get("experiment", ""), row.get("preset", "")


def _draw(axes: Axes, rows: Sequence[Row], info: MetricInfo) -> None:
    """A line per method. Intervals stand beside each other: at one place they would hide each other."""
    from matplotlib import colormaps

    by_method = values(rows, info.name)
    levels = sorted({row["sparsity"] for row in rows if row["sparsity"]})
    apart = 0.01 * (levels[-1] - levels[0]) if levels else 0.0
    colors = f"tab{10 if len(by_method) <= 10 else 20}"  # matplotlib's lists of colours that differ
    drawn: list[Any] = []  # for the legend, in the order of the methods
    for i, (name, own) in enumerate(by_method.items()):
        control, x = METHODS[name].control, [row["sparsity"] for row in own]
        y, half = [row["mean"] for row in own], [row["ci95"] or 0.0 for row in own]
        color = colormaps[colors](i % colormaps[colors].N)
        style: dict[str, Any] = {"color": color, "linestyle": "--" if control else "-", "label": name}
        if x == [0.0] and levels:
            drawn.append(axes.axhline(y[0], **{**style, "linestyle": ":"}))
            continue
        style |= {"marker": MARKERS[i % len(MARKERS)], "markerfacecolor": "white" if control else color}
        shift = apart * (i - (len(by_method) - 1) / 2) if any(half) else 0.0
        drawn.append(
            axes.errorbar([s + shift for s in x], y, half if any(half) else None, capsize=2, **style)
        )
    if levels and len(levels) <= MOST_TICKS:
        axes.set_xticks(levels, [f"{100 * level:.4g}%" for level in levels])
    _within_bounds(axes, [row["mean"] for own in by_method.values() for row in own], info)
    reading = READINGS.get(next(iter(by_method.values()))[0].get("reading", ""), "")
    axes.set(xlabel="sparsity", ylabel=f"{info.inside}, {reading}" if reading else info.inside)
    axes.grid(alpha=0.3)
    axes.legend(handles=drawn, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the lines


def _within_bounds(axes: Axes, means: Sequence[float], info: MetricInfo) -> None:
    """No share is below 0 or above 1, whatever its interval says."""
    if info.format == "share" and min(means) >= 0 and max(means) <= 1:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.0), min(high, 1.0 + 0.02 * (1.0 - max(low, 0.0))))
