"""Five panels in one figure, after Figure 3 of RTL (arXiv 2601.22141): do related classes share weights?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tombola._utils.errors import UsageError
from tombola.lab.analysis.named import Named
from tombola.lab.report.alignments import SOURCES, Aligned, Snapshot
from tombola.masks.similarity import DEPTHS

_FORMATS = (".svg", ".png", ".pdf")


def middle(states: Sequence[Snapshot], source: str, depth: str) -> Snapshot | None:
    """The state nearest to 50% removed."""
    mine = [state for state in states if (state.source, state.depth) == (source, depth)]
    return min(mine, key=lambda state: abs(state.removed - 0.5), default=None)


def draw(made: Sequence[Aligned], meaning: Named, what: str, file: Path) -> None:
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
    top, bottom = parts
    states = [each.state for each in made]
    panels: list[tuple[str, Named | None]] = []
    for depth in ("shallow", "deep"):
        chosen = middle(states, "own", depth) or middle(states, "own", "all")
        title = f"masks, {chosen.depth} layers, {chosen.removed:.0%} removed" if chosen else f"masks, {depth}"
        panels.append((title, chosen.similarity if chosen else None))
    panels.append((what, meaning))
    for letter, axes, (title, named) in zip("ABC", top.subplots(1, 3), panels, strict=True):
        axes.set_title(f"{letter}  {title}", loc="left")
        if named is not None:
            _matrix(figure, axes, named)
    left, right = bottom.subplots(1, 2)
    _lines(left, made)
    _means(right, states)
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file.suffix == ".svg" else None
    figure.savefig(file, metadata=metadata, dpi=110)


def _matrix(figure: Any, axes: Any, named: Named) -> None:
    from matplotlib.ticker import MaxNLocator

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


def _lines(axes: Any, made: Sequence[Aligned]) -> None:
    axes.set_title("D  rank correlation with the names, 95% interval", loc="left")
    for i, depth in enumerate(DEPTHS):
        mine = [each for each in made if (each.state.source, each.state.depth) == ("own", depth)]
        if mine:
            x, y = [each.state.removed for each in mine], [each.found.rho for each in mine]
            low, high = zip(*(each.found.ci95 for each in mine), strict=True)
            axes.plot(x, y, marker="os^"[i], label=f"{depth} layers", color=f"C{i}")
            axes.fill_between(x, low, high, alpha=0.12, color=f"C{i}")
    for i, source in enumerate(SOURCES):
        mine = [each for each in made if (each.state.source, each.state.depth) == (source, "all")]
        if mine:
            style = "-" if source == "own" else "--"
            label = SOURCES[source][1].partition(":")[0] + ", all layers"
            x, y = [each.state.removed for each in mine], [each.found.rho for each in mine]
            axes.plot(x, y, style, label=label, color=f"C{i + 3}", marker="x")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="share of weights removed", ylabel="Spearman's rho")
    axes.legend(fontsize=7)


def _means(axes: Any, states: Sequence[Snapshot]) -> None:
    axes.set_title("E  mean similarity of the masks", loc="left")
    for i, depth in enumerate(DEPTHS):
        mine = [state for state in states if (state.source, state.depth) == ("own", depth)]
        if mine:
            x, y = [state.removed for state in mine], [state.mean for state in mine]
            axes.plot(x, y, marker="os^"[i], label=f"{depth} layers", color=f"C{i}")
    axes.set(xlabel="share of weights removed", ylabel="mean over pairs")
    if axes.lines:
        axes.legend(fontsize=7)
