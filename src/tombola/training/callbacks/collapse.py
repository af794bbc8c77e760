"""The alarm for collapse: what a search measures after each round without a label, and when that is an alarm.

It warns and changes nothing; `docs/results/collapse.md` says how late it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import compare, mean_over_pairs
from tombola.training.callbacks.base import Callback, Record

FLOOR = 10  # weights that the smallest layer may not fall below: a choice, and not calibrated
SIZE = 10 * FLOOR  # of a layer that this is asked of
ALLOWANCE = 0.01  # a fall of specialisation in one round that says nothing

Row = Mapping[str, Any]


@dataclass
class CollapseMonitor(Callback):
    """Records what the tickets are like after each round (``watch``), and the first alarm (``alarm``).

    Attributes:
        threshold: what `cusum` may not exceed; None: no such alarm.
        history: what was measured so far, a row per round.
    """

    threshold: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list, init=False)

    def on_round_end(self, round: int, masks: MaskSet, record: Record) -> None:
        """Measure the masks after a round, counted from 0."""
        self.history.append({"round": round, **_measured(masks)})
        record(event="watch", **self.history[-1])
        alarm = first_alarm(self.history, self.threshold)
        if alarm is not None and alarm["round"] == round:
            record(event="alarm", **alarm)

    def state(self) -> dict[str, Any]:
        """The state that `restore` goes on from, as JSON can hold it."""
        return {"history": list(self.history)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.history = list(state["history"])


def _measured(masks: MaskSet) -> dict[str, Any]:
    row: dict[str, Any] = {"density": masks.density}
    if asked := [i for i, size in enumerate(masks.scope.sizes) if size >= SIZE]:
        counts_KL = masks.counts_KL()[:, asked]
        k, at = divmod(int(counts_KL.numpy(force=True).argmin()), len(asked))  # the first if equal
        layer = masks.scope.names[asked[at]]
        row |= {"fewest": int(counts_KL[k, at]), "ticket": masks.names[k], "layer": layer}
    if len(masks) > 1:
        kappa = mean_over_pairs(compare(masks).kappa())
        row["kappa"] = None if math.isnan(kappa) else round(kappa, 6)
    return row


def cusum(rows: Sequence[Row]) -> list[float]:
    """The one-sided CUSUM (Page, Biometrika 1954) of the fall of specialisation, ``1 − kappa``, per round.

    ``g_t = max(0, g_{t-1} + fall_t − ALLOWANCE)``; a round without kappa leaves it as it was.

    >>> [round(g, 2) for g in cusum([{"kappa": k} for k in (0.5, 0.51, 0.6, None, 0.65, 0.3)])]
    [0.0, 0.0, 0.08, 0.08, 0.12, 0.0]
    """
    found, g, last = [], 0.0, math.inf
    for row in rows:
        if (kappa := row.get("kappa")) is not None:
            g, last = max(0.0, g + kappa - last - ALLOWANCE), kappa
        found.append(g)
    return found


def first_alarm(rows: Sequence[Row], threshold: float | None = None) -> dict[str, Any] | None:
    """The first round that is an alarm, its density, and what fired; a function of the rows alone.

    >>> rows = [{"round": 0, "density": 0.5, "fewest": 40}, {"round": 1, "density": 0.4, "fewest": 9}]
    >>> first_alarm(rows)
    {'round': 1, 'density': 0.4, 'fired': ['smallest layer']}
    """
    for row, g in zip(rows, cusum(rows), strict=True):
        fired = ["smallest layer"] if row.get("fewest", FLOOR) < FLOOR else []
        fired += ["specialisation"] if threshold is not None and g > threshold else []
        if fired:
            return {"round": row["round"], "density": row["density"], "fired": fired}
    return None


def alarms(records: Iterable[Row]) -> list[str]:
    """The alarms that a run recorded, in words."""
    return [
        f"alarm for collapse in the search {row.get('method') or row.get('view', '')}: "
        f"{' and '.join(row['fired'])}, in round {row['round'] + 1}, at {1 - row['density']:.1%} removed"
        for row in records
        if row.get("event") == "alarm"
    ]
