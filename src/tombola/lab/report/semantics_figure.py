"""Five panels in one figure, after Figure 3 of RTL (arXiv 2601.22141): do related classes share weights?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tombola._utils.errors import UsageError
from tombola.lab.analysis.named import Named
from tombola.lab.report.rows import Row
from tombola.lab.report.semantics import SOURCES, Snapshot
from tombola.masks.similarity import DEPTHS

_FORMATS = (".svg", ".png", ".pdf")


def draw(states: Sequence[Snapshot], rows: Sequence[Row], meaning: Named, what: str, file: Path) -> None:
    """Panels A to E into a file.

    A, B: similarity of the masks in shallow and in deep layers, at the sparsity nearest to 50%. C: that of
    the names. D: their rank correlation over sparsity, a line per third of the depth, dashed the controls
    over all layers. E: mean similarity over sparsity per third of the depth.

    Raises:
        UsageError: a format that is not drawn.
    """
    if file.suffix.lower() not in _FORMATS:
        raise UsageError(f"--figure takes {', '.join('NAME' + each for each in _FORMATS)}: got {file}")
    from matplotlib.figure import Figure  # only here: it takes a second to import

    figure = Figure(figsize=(15, 8.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    a, b, c = parts[0].subplots(1, 3)
    for letter, axes, depth in (("A", a, "shallow"), ("B", b, "deep")):
        mine = [[s for s in states if (s.source, s.depth) == ("own", each)] for each in (depth, "all")]
        if (chosen := min(mine[0] or mine[1], key=lambda s: abs(s.removed - 0.5), default=None)) is None:
            axes.set_title(f"{letter}  masks, {depth}", loc="left")
        else:
            title = f"{letter}  masks, {chosen.depth} layers, {chosen.removed:.0%} removed"
            _matrix(figure, axes, title, chosen.similarity)
    _matrix(figure, c, f"C  {what}", meaning)
    d, e = parts[1].subplots(1, 2)
    _curves(d, rows, "rho", "D  rank correlation with the names, 95% interval", "Spearman's rho")
    _curves(e, rows, "mean", "E  mean similarity of the masks", "mean over pairs")
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file.suffix == ".svg" else None
    figure.savefig(file, metadata=metadata, dpi=110)


def _matrix(figure: Any, axes: Any, title: str, named: Named) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    values = np.where(np.eye(len(named.names), dtype=bool), np.nan, named.values_KK)
    image = axes.imshow(values, cmap="cividis")
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.8, ticks=MaxNLocator(4))
    words = [name.replace("_", " ") for name in named.names]
    places = range(len(words)) if len(words) <= 24 else []
    axes.set_yticks(places, words if places else [], fontsize=7)
    if places and len(words) <= 12:  # more would take the matrix's place; columns have the order of rows
        axes.set_xticks(places, words, rotation=60, ha="right", fontsize=7)
    else:
        axes.set_xticks([])


def _curves(axes: Any, rows: Sequence[Row], value: str, title: str, label: str) -> None:
    """One value over sparsity; of the correlation also its interval, and the controls."""
    lines = [("own", depth, f"{depth} layers", f"C{i}", f"{'os^'[i]}-") for i, depth in enumerate(DEPTHS)]
    if value == "rho":
        axes.axhline(0, color="grey", linewidth=0.8)
        lines += [
            (source, "all", f"{name}, all layers", f"C{i + 3}", "x-" if source == "own" else "x--")
            for i, (source, (_, name)) in enumerate(SOURCES.items())
        ]
    for source, depth, name, colour, style in lines:
        if mine := [row for row in rows if (row["source"], row["depth"]) == (source, depth)]:
            x, y, low, high = ([row[key] for row in mine] for key in ("removed", value, "low", "high"))
            axes.plot(x, np.array(y, float), style, label=name, color=colour)
            if value == "rho" and depth != "all":
                axes.fill_between(x, np.array(low, float), np.array(high, float), alpha=0.12, color=colour)
    axes.set_title(title, loc="left")
    axes.set(xlabel="share of weights removed", ylabel=label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
