"""A CUSUM against a series' own pace, for a search that has no other searches to be compared with.

A healthy search moves too: specialisation falls and likeness rises from the first round on. So a step is
standardised by the steps before it, by their median and their median absolute deviation, which the large
steps of the first rounds hardly move (a self-starting CUSUM: Hawkins, Technometrics 1987; here robust):
``x_t = (d_t − median(d_<t)) / (1.4826 MAD(d_<t))``, clipped to ±10, then `cusum`.

The threshold is that of null runs: series whose steps are independent draws of one normal distribution.
Centre and scale of it do not matter, so that the false-alarm rate of such runs is what it says, whatever the
series; for steps that are no such draws it is a statement about the null runs and nothing else.

Shape letters: R rounds, M null runs.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tombola._utils.errors import UsageError
from tombola.lab.analysis.cusum import ControlChart, cusum

Floats = NDArray[np.float64]
FIRST = 5  # steps that are seen before one is judged
_CLIP, _DELTA, _RUNS = 10.0, 0.5, 4000


def standardised(steps: ArrayLike) -> Floats:
    """Steps by those before them, float64 ``[..., R]``; NaN for the first `FIRST` that are known.

    Steps that do not differ have no scale: the next one is 0 if it is their equal, else ±10.

    >>> standardised([1.0, 2.0, 3.0, 4.0, 5.0, 3.0]).tolist()[-1]
    0.0
    """
    d = np.asarray(steps, dtype=np.float64)
    x = np.full_like(d, np.nan)
    if d.ndim == 1:  # a series may have gaps
        known = np.flatnonzero(~np.isnan(d))
        x[known] = _standardised(d[known])
        return x
    return _standardised(d)


def _standardised(d: Floats) -> Floats:
    x = np.full_like(d, np.nan)
    for t in range(FIRST, d.shape[-1]):
        before = d[..., :t]
        median = np.median(before, -1)
        scale = 1.4826 * np.median(np.abs(before - median[..., None]), -1)
        away = d[..., t] - median
        with np.errstate(divide="ignore", invalid="ignore"):
            x[..., t] = np.where(away == 0, 0.0, np.clip(away / scale, -_CLIP, _CLIP))
    return x


@cache
def threshold(rounds: int, false_alarms: float) -> float:
    """What the CUSUM of a share ``false_alarms`` of null runs exceeds at least once in so many rounds.

    Of M = 4,000 null runs; the same numbers every time. Infinite where no round can be judged.

    Raises:
        UsageError: a rate that is not between 0.001 and 1.

    >>> threshold(10, 0.05) < threshold(40, 0.05) < threshold(40, 0.01)
    True
    """
    if not 0.001 <= false_alarms < 1:
        raise UsageError(f"a false-alarm rate lies between 0.001 and 1: got {false_alarms:g}")
    if rounds - 1 <= FIRST:
        return float("inf")
    null = np.random.default_rng(0).normal(size=(_RUNS, rounds - 1))
    peaks = np.sort(cusum(standardised(null), _DELTA).max(-1))
    return float(peaks[int(np.ceil((_RUNS + 1) * (1 - false_alarms))) - 1])


def rises(name: str, series_R: ArrayLike, rounds: int, false_alarms: float) -> ControlChart:
    """Watches for a series that begins to rise faster than it did.

    Args:
        name: of the chart.
        series_R: one value per round so far; NaN where there is none.
        rounds: of the whole search, which the rate is for.
        false_alarms: the share of null runs that fire in any of their rounds.

    Raises:
        UsageError: more values than rounds, or a rate out of range.

    >>> steady = [0.0, 1.0, 2.1, 3.0, 4.1, 5.0, 6.1, 7.0]
    >>> rises("likeness", steady, 10, 0.05).fired, rises("likeness", [*steady, 10, 14], 10, 0.05).fired
    (None, 8)
    """
    series = np.asarray(series_R, dtype=np.float64)
    if series.ndim != 1 or len(series) > rounds:
        raise UsageError(f"{name} has shape {series.shape}: a search of {rounds} rounds has at most as many")
    last, steps = np.nan, np.full_like(series, np.nan)
    for t, now in enumerate(series):
        steps[t] = now - last
        last = last if np.isnan(now) else now
    return ControlChart(
        name, tuple(cusum(standardised(steps), _DELTA).tolist()), threshold(rounds, false_alarms), 0
    )
