"""A one-sided CUSUM (Page, Biometrika 1954): ``g_t = max(0, g_{t-1} + x_t − delta)``, alarm at ``g_t > h``.

``x_t`` is the standardised step of a series, and ``h`` that of null runs (`tombola.lab.analysis.pace`).

Shape letters: R rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class ControlChart:
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
