"""Rows of an evaluation: one per measured value of a run, then means and intervals over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tombola.lab.report.rows import Row, interval

Values = list[Row]


def rows(what: Mapping[str, Any], found: Mapping[str, float | Tensor]) -> Values:
    """A row per metric: what was measured, the metric's name, the value.

    >>> rows({"router": "gate"}, {"accuracy": 0.5})
    [{'router': 'gate', 'metric': 'accuracy', 'value': 0.5}]
    """
    return [{**what, "metric": name, "value": float(value)} for name, value in found.items()]


def over_seeds(values: Sequence[Row]) -> list[Row]:
    """Rows with ``mean``, ``ci95`` and ``seeds`` for ``value`` and ``seed``, in first-seen order.

    >>> values = [{"metric": "a", "seed": s, "value": v} for s, v in ((0, 1.0), (1, 3.0))]
    >>> over_seeds(values)  # doctest: +ELLIPSIS
    [{'metric': 'a', 'mean': 2.0, 'ci95': 12.7..., 'seeds': 2}]
    """
    groups: dict[tuple, list[float]] = defaultdict(list)
    for row in values:
        groups[tuple((name, v) for name, v in row.items() if name not in ("value", "seed"))].append(
            row["value"]
        )
    return [
        {**dict(key), "mean": float(np.mean(found)), "ci95": interval(found), "seeds": len(found)}
        for key, found in groups.items()
    ]
