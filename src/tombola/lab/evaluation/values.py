"""Measured values as rows of a table: what was measured, the metric's name, the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Values = list[dict[str, Any]]


def rows(what: Mapping[str, Any], found: Mapping[str, float | Tensor]) -> Values:
    """A row per metric.

    >>> rows({"router": "gate"}, {"accuracy": 0.5})
    [{'router': 'gate', 'metric': 'accuracy', 'value': 0.5}]
    """
    return [{**what, "metric": name, "value": float(value)} for name, value in found.items()]
