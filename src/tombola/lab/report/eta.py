"""How long runs will still take: outcomes to come cost what those that are done took on average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Timings = Mapping[str, float | None]  # seconds of each stage, in order; None where it was interrupted


def seconds_left(runs: Iterable[tuple[Timings, int]]) -> float | None:
    """Seconds left for some runs; None before the first outcome that was timed as a whole.

    An outcome takes the stages up to and with that which judges it.

    Args:
        runs: for each run, the timings of its stages and how many outcomes are missing.

    >>> seconds_left([({"search-own-0.5": 9.0, "judge-rtl-0.5": 1.0, "search-own-0.9": 4.0}, 2)])
    16.0
    """
    spent, judged, begun = 0.0, 0, []
    for timings, missing in runs:
        stages: list[float | None] = []
        for name, seconds in timings.items():
            stages.append(seconds)
            if name.startswith("judge-"):
                if None not in stages:
                    spent, judged = spent + sum(filter(None, stages)), judged + 1
                stages = []
        begun.append((missing, sum(filter(None, stages))))
    if not judged:
        return None
    return sum(max(missing * spent / judged - seconds, 0.0) for missing, seconds in begun)


def clock(seconds: float) -> str:
    """A duration in two units at most.

    >>> clock(41.2), clock(600), clock(7500)
    ('41 s', '10 min', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
