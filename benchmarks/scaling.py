"""Cost against the number of tickets and of weights: time, peak memory, and the exponent that fits them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Side, interleave, peak_memory
from benchmarks.row import Row, milliseconds
from benchmarks.sets import build
from benchmarks.setting import generator
from tombola._utils.memory import high_water
from tombola.masks.apply import masked_weights
from tombola.masks.maskset import MaskSet
from tombola.pruning import prune

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "scaling.png"
TICKETS, WEIGHTS = 4, 100_000  # where the other one grows
MOST = 1.1  # an exponent; above 1 within what a fit over four sizes may be off by
Seconds = dict[int, dict[str, float]]  # by size and operation


def scaling(full: bool) -> list[Row]:
    """Rows ``scaling_k`` and ``scaling_n``; in a full run one more for each size, and the picture of both."""
    by_k = {size: _seconds(size, WEIGHTS) for size in (1, 10, 100, 1000)}
    by_n = {10**e: _seconds(TICKETS, 10**e) for e in range(5, 9 if full else 8)}
    rows = [_fitted("k", by_k), _fitted("n", by_n)]
    if full:
        _draw({"tickets, 100,000 weights each": by_k, "weights, four tickets": by_n})
        rows += [_size(f"scaling_k_{size}", found, (size, WEIGHTS)) for size, found in by_k.items()]
        rows += [_size(f"scaling_n_{size}", found, (TICKETS, size)) for size, found in by_n.items()]
    return rows


def _seconds(K: int, N: int) -> dict[str, float]:
    """Of each operation."""
    sides = _sides(build(K, N))
    times = interleave(sides, 3, warmup=1)
    return {name: times.median(name) for name in sides}


def _fitted(letter: str, found: Seconds) -> Row:
    """The largest exponent of the operations."""
    sizes = list(found)
    exponents = {name: exponent({size: t[name] for size, t in found.items()}) for name in found[sizes[0]]}
    words = ", ".join(f"{name} {e:.2f}" for name, e in exponents.items())
    note = f"the largest fitted exponent over {sizes[0]:,} to {sizes[-1]:,}: {words}"
    return Row(f"scaling_{letter}", max(exponents.values()), "", note, MOST)


def _size(name: str, seconds: Mapping[str, float], size: tuple[int, int]) -> Row:
    """One size: seconds of all operations together, and the peak memory of a process that does them."""
    before, after = peak_memory(_peak, size)
    each = ", ".join(f"{name} {milliseconds(s)}" for name, s in seconds.items())
    note = f"{each}; peak {after / 2**30:.2f} GiB, {before / 2**30:.2f} with masks and weights alone"
    return Row(name, sum(seconds.values()), "s", note)


def exponent(seconds: Mapping[int, float]) -> float:
    """The slope of log time over log size, least squares.

    >>> round(exponent({1: 0.5, 10: 5.0, 100: 50.0}), 6)
    1.0
    """
    sizes = np.log(list(seconds))
    return float(np.polyfit(sizes, np.log(list(seconds.values())), 1)[0])


def _sides(masks: MaskSet) -> dict[str, Side]:
    """What is done with all tickets, and with one of them."""
    N, layout = masks.scope.size, masks.scope
    weights_N = torch.rand(N, generator=generator())
    packed, mask_N = masks.pack(), masks.masks_KN[0]
    kept = int(mask_N.sum()) // 2
    return {
        "union": masks.union,
        "core": masks.core,
        "pack": masks.pack,
        "unpack": lambda: MaskSet.unpack(layout, masks.names, packed),
        "prune one": lambda: prune(mask_N, weights_N, kept, layout),
        "switch to one": lambda: masked_weights(layout, weights_N, mask_N),
    }


def _peak(size: tuple[int, int]) -> tuple[int, int]:
    sides = _sides(build(*size))
    before = high_water()
    for side in sides.values():
        side()
    return before, high_water()


def _draw(panels: Mapping[str, Seconds]) -> None:
    from matplotlib.figure import Figure  # only here: it takes a second to import

    figure = Figure((9, 3.6), layout="constrained")
    for axes, (label, found) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        sizes = list(found)
        for name in found[sizes[0]]:
            axes.loglog(sizes, [found[size][name] for size in sizes], marker="o", label=name)
        line = [found[sizes[-1]]["pack"] * size / sizes[-1] for size in sizes]
        axes.loglog(sizes, line, color="0.6", linestyle=":", label="linear")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[1].legend(fontsize=7, ncols=2)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
