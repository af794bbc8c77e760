"""What the alarm for collapse said of a run, in words and in plain values, from its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Alarmed:
    """The alarm of one search.

    Attributes:
        search: whose search: ``own`` for that of the tickets.
        round: in which it was raised, counted from 1.
        removed: share of weights removed then.
        fired: what fired.
        good: share removed after the last good round; None if there was none.
        rate: the stated false-alarm rate; None where only a floor that is a choice was passed.
        not_reached: sparsities that the search was stopped before.
        judged: the sparsity that it went back to, where it was stopped.
    """

    search: str
    round: int
    removed: float
    fired: tuple[str, ...]
    good: float | None
    rate: float | None
    not_reached: tuple[float, ...] = ()
    judged: float | None = None

    @property
    def words(self) -> str:
        """For readers, in a line or two."""
        whose = "the search of the tickets" if self.search == "own" else f"the search {self.search}"
        good = "no round before it was good" if self.good is None else f"the last good round: {self.good:.1%}"
        rate = f", stated false-alarm rate {self.rate:.0%}" if self.rate is not None else ""
        said = (
            f"alarm for collapse in {whose}: {' and '.join(self.fired)}, in round {self.round}, at "
            f"{self.removed:.1%} of the weights removed ({good}{rate})"
        )
        if not self.not_reached:
            return said
        levels = ", ".join(f"{s:.4g}" for s in self.not_reached)
        back = "there is no ticket" if self.judged is None else f"it went back to {self.judged:.1%}"
        return f"{said}. The search stopped: {back}; sparsity {levels} was not reached"


def alarms(records: Iterable[Record]) -> list[Alarmed]:
    """The alarms of a run, one per search at most, in the order in which they were raised.

    >>> row = {"stage": "search-own-0.5", "round": 8, "density": 0.55, "fired": ["likeness"]}
    >>> row |= {"event": "alarm", "last_good_density": 0.6, "false_alarms": 0.05}
    >>> alarms([row])[0].removed
    0.45
    """
    found: dict[str, Alarmed] = {}
    for row in records:
        search = str(row.get("stage", "")).removeprefix("search-").rpartition("-")[0]
        if row.get("event") == "alarm":
            good = row["last_good_density"]
            found[search] = Alarmed(
                search,
                row["round"] + 1,
                round(1 - row["density"], 6),
                tuple(row["fired"]),
                None if good is None else round(1 - good, 6),
                row["false_alarms"],
            )
        elif row.get("event") == "stopped" and search in found:
            missed, judged = tuple(row["not_reached"]), row["sparsity"]
            found[search] = replace(found[search], not_reached=missed, judged=judged)
    return list(found.values())
