"""One figure of the performance page."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measure import Times


@dataclass(frozen=True)
class Row:
    """A value, what it is measured against in the same run, and the most it should be (if decided)."""

    name: str
    value: float
    unit: str
    against: str
    target: float | None = None
    spread: tuple[float, float] | None = None


def ratio(name: str, times: Times, side: str, over: str, against: str, target: float | None = None) -> Row:
    """The time of a side over that of another; ``against`` says what the other is."""
    note = f"{against} ({milliseconds(times.median(side))} over {milliseconds(times.median(over))})"
    return Row(name, times.ratio(side, over), "×", note, target, times.spread(side, over))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
