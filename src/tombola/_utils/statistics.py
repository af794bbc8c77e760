"""Means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy  # its parts are imported when first used


def interval(values: Sequence[float], level: float = 0.95) -> float | None:
    """Half the width of the interval of the mean (Student's t); None for one value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    n = len(values)
    if n < 2:
        return None
    return float(scipy.stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
