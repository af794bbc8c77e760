"""Where a stage is, from what it recorded last, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tombola.objectives.metrics import share
from tombola.runs.stages import Stage


@dataclass(frozen=True)
class StageStatus:
    """Where a stage is: what was recorded last."""

    stage: str = ""  # empty before any began
    round: int | None = None  # counted from 1
    density: float | None = None  # share of weights kept, mean over tickets
    loss: float | None = None
    kappa: float | None = None  # mean similarity of all pairs of tickets, corrected for chance

    def after(self, stage: str, record: Mapping[str, Any]) -> StageStatus:
        """The status after one more record; those of another stage begin anew.

        >>> now = StageStatus().after("search-own-0.5", {"event": "prune", "round": 0, "loss": 0.25})
        >>> now.after("search-own-0.5", {"event": "watch", "round": 0, "density": 0.8}).words
        {'stage': 'search own 50%', 'round': 'round 1', 'density': 'density 0.800', 'loss': 'loss 0.2500'}
        """
        if not stage:
            return self
        found = self if stage == self.stage else StageStatus(stage)
        new = {"loss": record["loss"]} if "loss" in record else {}
        if "round" in record and record["event"] in ("prune", "watch"):
            new["round"] = record["round"] + 1
        if record["event"] == "watch":
            new |= {"density": record["density"], "kappa": record.get("kappa")}
        return replace(found, **new)

    @property
    def words(self) -> dict[str, str]:
        """What is known, most telling first."""
        found = {"stage": stage_words(self.stage)} if self.stage else {}
        written: dict[str, Callable[[Any], str]] = {
            "round": str,
            "density": share,
            "loss": _loss,
            "kappa": share,
        }
        known = {name: getattr(self, name) for name in written if getattr(self, name) is not None}
        return found | {name: f"{name} {written[name](value)}" for name, value in known.items()}


def stage_words(name: str) -> str:
    """The name of a stage for readers.

    >>> stage_words("search-own-0.25"), stage_words("train-imp_per_subset-0.5-cat"), stage_words("rewind-own")
    ('search own 25%', 'train imp_per_subset 50% cat', 'rewind own')
    """
    stage = Stage.parse(name)
    if stage is None:
        return name.replace("-", " ")
    told = "told" if stage.conditioned else ""
    removed = f"{100 * stage.sparsity:g}%" if stage.sparsity is not None else ""
    return " ".join(filter(None, (stage.phase, told, stage.method, stage.view, removed, stage.ticket)))


def _loss(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= abs(value) < 10 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """A duration in two units at most.

    >>> clock(41.2), clock(600), clock(7500)
    ('41 s', '10 min', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
