"""Times of sides that are measured in turn, and the peak memory of a function."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

Side = Callable[[], object]
T = TypeVar("T")


@dataclass(frozen=True)
class Times:
    """Seconds of every side and round; the sides of one round ran one after another."""

    seconds: dict[str, list[float]]

    def median(self, side: str) -> float:
        return statistics.median(self.seconds[side])

    def ratio(self, side: str, over: str) -> float:
        """Of the medians."""
        return self.median(side) / self.median(over)

    def spread(self, side: str, over: str | None = None) -> tuple[float, float]:
        """Quartiles over the rounds: of the ratio within a round, or of the seconds alone."""
        values = self.seconds[side]
        if over is not None:
            values = [a / b for a, b in zip(values, self.seconds[over], strict=True)]
        if len(values) < 4:
            return min(values), max(values)
        low, _, high = statistics.quantiles(values, n=4)
        return low, high


def interleave(
    sides: Mapping[str, Side],
    repeats: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """A B C, C B A, A B C ...: what disturbs the machine for a while disturbs all sides."""
    for side in sides.values():
        for _ in range(warmup):
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(repeats):
        for name in order:
            start = clock()
            sides[name]()
            seconds[name].append(clock() - start)
        order.reverse()
    return Times(seconds)


def peak_memory(function: Callable[[T], tuple[int, int]], argument: T) -> tuple[int, int]:
    """Call a module-level function in a fresh process, so that its peak is nobody else's."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, argument).result()
