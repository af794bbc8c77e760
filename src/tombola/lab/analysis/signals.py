"""What is watched for collapse, from what a search measured after each round. None of it needs a label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tombola.lab.analysis.collapse import FALSE_ALARMS, survivors
from tombola.lab.analysis.cusum import ControlChart
from tombola.lab.analysis.pace import rises

SIGNALS = ("likeness", "specialisation", "drift")
FLOOR = 10  # weights that the smallest layer may not fall below: a choice, and not calibrated
SIZE = 10 * FLOOR  # of a layer that this is asked of
_LEAST = 1e-3  # specialisation and drift are watched on a logarithmic scale, down to this

Measured = Mapping[str, Any]  # density, fewest, kappa, specialisation, drift: those that were measured


def charts(
    history: Sequence[Measured],
    rounds: int,
    false_alarms: float = FALSE_ALARMS,
    names: Sequence[str] = SIGNALS,
) -> list[ControlChart]:
    """All charts that what was measured allows, over the rounds so far.

    The stated rate is that of all calibrated charts together: each gets an equal part of it.
    """
    series = {name: values for name in names if any(map(math.isfinite, values := signal(history, name)))}
    each = false_alarms / max(len(series), 1)
    found = [rises(name, values, rounds, each) for name, values in series.items()]
    counts = [int(row["fewest"]) for row in history if "fewest" in row]
    return [*found, survivors(counts, FLOOR)] if counts else found


def signal(history: Sequence[Measured], name: str) -> list[float]:
    """What is watched for a rise, from what was measured; NaN where it was not.

    ``likeness`` −log(1 − kappa across tickets), ``specialisation`` −log of it, ``drift`` its log.

    >>> signal([{"specialisation": 1.0}, {}], "drift")
    [nan, nan]
    """
    if name == "likeness":
        return [-math.log(max(1 - _number(row.get("kappa")), _LEAST)) for row in history]
    sign = -1 if name == "specialisation" else 1
    return [sign * math.log(max(_number(row.get(name)), _LEAST)) for row in history]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
