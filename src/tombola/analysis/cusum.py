"""A one-sided CUSUM whose false-alarm rate is known (Page, Biometrika 1954).

``g_t = max(0, g_{t-1} + x_t − delta)``, alarm where ``g_t > h``. ``x_t`` is the standardised fall of a
series over rounds, or its level; scale and ``h`` come from trajectories in which nothing is to be found.

Shape letters: R rounds, M null trajectories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tombola.errors import UsageError, unknown

Floats = NDArray[np.float64]
Watched = Literal["fall", "level"]


def cusum(x_R: ArrayLike, delta: float = 0.5) -> Floats:
    """``g_t = max(0, g_{t-1} + x_t − delta)`` from ``g_{-1} = 0``, float64 ``[..., R]``.

    A NaN is no evidence: there ``g`` stays what it was. ``delta`` is half of the shift (in standard
    deviations) that is to be found quickest.

    >>> cusum([0.0, 2.0, 1.0, -3.0, 1.0]).tolist()
    [0.0, 1.5, 2.0, 0.0, 0.5]
    """
    x = np.asarray(x_R, dtype=np.float64)
    g, now = np.zeros_like(x), np.zeros(x.shape[:-1])
    for t in range(x.shape[-1]):
        step = x[..., t]
        now = np.where(np.isnan(step), now, np.maximum(0, now + step - delta))
        g[..., t] = now
    return g


def falls(series_R: ArrayLike) -> Floats:
    """``s_{t-1} − s_t``, float64 ``[..., R]``: NaN at the first round and where the series is NaN.

    After a gap the fall is measured from the last value before it.

    >>> falls([0.5, 0.75, float("nan"), 0.25]).tolist()
    [nan, -0.25, nan, 0.5]
    """
    series = np.asarray(series_R, dtype=np.float64)
    found, last = np.full_like(series, np.nan), np.full(series.shape[:-1], np.nan)
    for t in range(series.shape[-1]):
        now = series[..., t]
        found[..., t] = last - now
        last = np.where(np.isnan(now), last, now)
    return found


@dataclass(frozen=True)
class Watch:
    """One thing watched over R rounds: its statistic, what it may not exceed, and where it rests.

    ``value_R`` fires where it is above ``limit``; where it is at most ``rest``, nothing has begun.
    """

    name: str
    value_R: tuple[float, ...]
    limit: float
    rest: float

    @property
    def fired(self) -> int | None:
        """The first round above the limit."""
        return next((t for t, value in enumerate(self.value_R) if value > self.limit), None)

    @property
    def last_good(self) -> int | None:
        """The last round at rest before it fired (the usual estimate of when a change began)."""
        before = range((self.fired if self.fired is not None else len(self.value_R)) - 1, -1, -1)
        return next((t for t in before if self.value_R[t] <= self.rest), None)


@dataclass(frozen=True)
class Reference:
    """What the CUSUM of a series does where nothing is to be found: scale per round, and threshold.

    Made by `Reference.of`. ``center_R`` and ``scale_R`` standardise; ``h`` is the threshold.
    """

    center_R: tuple[float, ...]
    scale_R: tuple[float, ...]
    h: float
    delta: float
    watched: Watched
    false_alarms: float

    @classmethod
    def of(
        cls, null_MR: ArrayLike, watched: Watched = "fall", delta: float = 0.5, false_alarms: float = 0.05
    ) -> Reference:
        """Calibrated on null trajectories ``[M, R]``, all of the rounds of the series to be watched.

        One half of them gives mean and standard deviation of ``x_t`` per round (one in
        which they do not vary tells nothing), the other the threshold:
        of its m largest values of ``g``, in order, the one at ``ceil((m + 1)(1 − false_alarms))``. A
        run that is like the null trajectories therefore fires with a chance of at most ``false_alarms``,
        over all its rounds together, however the falls are distributed.

        Args:
            null_MR: the series in runs where nothing is to be found; NaN where it is not defined.
            watched: ``fall`` of the series from round to round, or its ``level``.
            delta: what is taken off every round, in standard deviations.
            false_alarms: the chance that a null run fires.

        Raises:
            UsageError: not a matrix, fewer than three rounds, too few trajectories for this rate, or
                trajectories that do not differ.

        >>> Reference.of(np.random.default_rng(0).normal(size=(200, 10))).h > 0
        True
        """
        null = np.asarray(null_MR, dtype=np.float64)
        if null.ndim != 2 or null.shape[1] < 3:
            raise UsageError(f"null trajectories are a matrix [M, R] of three rounds or more: {null.shape}")
        if not 0 < false_alarms < 1 or delta < 0:
            raise UsageError(
                f"false_alarms lies in (0, 1) and delta is not negative: got {false_alarms} and {delta}"
            )
        needed = 2 * max(2, math.ceil(1 / false_alarms - 1e-9) - 1)
        if len(null) < needed:
            raise UsageError(
                f"a false-alarm rate of {false_alarms:g} needs {needed} null trajectories: got {len(null)}"
            )
        for_scale, for_h = np.array_split(_watched(null, watched), 2)
        center, scale = _mean(for_scale), np.sqrt(_mean((for_scale - _mean(for_scale)) ** 2))
        if not (scale > 0).any():
            raise UsageError("the null trajectories do not differ: draw them with different seeds")
        scale = np.where(scale > 0, scale, np.nan)
        peaks = np.sort(cusum((for_h - center) / scale, delta).max(-1))
        at = math.ceil((len(peaks) + 1) * (1 - false_alarms) - 1e-9)
        return cls(tuple(center), tuple(scale), float(peaks[max(at, 1) - 1]), delta, watched, false_alarms)

    def watch(self, name: str, series_R: ArrayLike) -> Watch:
        """The CUSUM of a series over the first rounds of the null trajectories, or all of them.

        Raises:
            UsageError: a series that is longer than these, or not one-dimensional.
        """
        series = np.asarray(series_R, dtype=np.float64)
        R = len(self.center_R)
        if series.ndim != 1 or len(series) > R:
            raise UsageError(f"{name} has shape {series.shape}, the null trajectories {R} rounds")
        x = (_watched(series, self.watched) - self.center_R[: len(series)]) / self.scale_R[: len(series)]
        return Watch(name, tuple(cusum(x, self.delta).tolist()), self.h, 0.0)


def _watched(series: Floats, watched: str) -> Floats:
    if watched not in ("fall", "level"):
        raise UsageError(unknown("way to watch a series", watched, ("fall", "level")))
    return falls(series) if watched == "fall" else series


def _mean(x_MR: Floats) -> Floats:
    """Mean over trajectories without NaN; NaN where all are."""
    known = ~np.isnan(x_MR)
    total = np.where(known, x_MR, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)
