"""One moment of a stage, from what it has recorded so far, in words that fit a line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tombola.lab.report.tables import share

_NAMED = re.compile(r"(?P<phase>\w+?)-(?P<what>.+?)-(?P<sparsity>\d[\d.]*(e-\d+)?)(-(?P<ticket>.+))?")
_LEAST = 8  # signs that a shortened name keeps


@dataclass(frozen=True)
class Moment:
    """Where a stage is.

    Attributes:
        stage: its name in the journal; empty before any began.
        round: the last that recorded something, counted from 1.
        density: share of weights kept after the last full round, mean over tickets.
        loss: the last that was recorded.
        kappa: mean similarity of all pairs of tickets after the last full round, corrected for chance.
    """

    stage: str = ""
    round: int | None = None
    density: float | None = None
    loss: float | None = None
    kappa: float | None = None

    def after(self, stage: str, record: Mapping[str, Any]) -> Moment:
        """The moment after one more record; those of another stage begin anew.

        >>> now = Moment().after("search-own-0.5", {"event": "prune", "round": 0, "loss": 0.25})
        >>> now.after("search-own-0.5", {"event": "watch", "round": 0, "density": 0.8}).words
        ['search own 50%', 'round 1', 'density .800', 'loss .2500']
        """
        if not stage:
            return self
        found = self if stage == self.stage else Moment(stage)
        if "round" in record and record["event"] in ("prune", "watch"):
            found = replace(found, round=record["round"] + 1)
        if "loss" in record:
            found = replace(found, loss=record["loss"])
        if record["event"] == "watch":
            found = replace(found, density=record["density"], kappa=record.get("kappa"))
        return found

    @property
    def words(self) -> list[str]:
        """What is known, most telling first."""
        parts = [named(self.stage)] if self.stage else []
        parts += [f"round {self.round}"] if self.round is not None else []
        parts += [f"density {share(self.density)}"] if self.density is not None else []
        parts += [f"loss {_loss(self.loss)}"] if self.loss is not None else []
        parts += [f"kappa {share(self.kappa)}"] if self.kappa is not None else []
        return parts


def named(stage: str) -> str:
    """The name of a stage for readers.

    >>> named("search-own-0.25"), named("train-imp_per_subset-0.5-cat"), named("rewind-own")
    ('search own 25%', 'train imp_per_subset 50% cat', 'rewind own')
    """
    found = _NAMED.fullmatch(stage)
    if found is None:
        return stage.replace("-", " ")
    words = [found["phase"], found["what"].replace("-", " "), f"{100 * float(found['sparsity']):g}%"]
    return " ".join([*words, *filter(None, [found["ticket"]])])


def _loss(value: float) -> str:
    return f"{value:.4f}".removeprefix("0") if 1e-3 <= abs(value) < 10 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """A duration in two units at most.

    >>> clock(41.2), clock(600), clock(7500)
    ('41 s', '10 min', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def fitted(where: str, now: Moment, left: str, width: int) -> str:
    """One line of at most ``width`` signs: which run, where it is, how long it takes.

    What does not fit is shortened: the word "left", then names, then, on a narrow terminal, the line itself.

    >>> now = Moment("search-early_bird_channels-single-0.5", 2, 0.8, 0.25, 0.9)
    >>> fitted("seed 0", now, "10 min left", 80)
    'seed 0  search early… 50%  round 2  density .800  loss .2500  kappa .900  10 min'
    """
    name, *rest = now.words or ["loading"]
    line = "  ".join([where, name, *rest, *([left] if left else [])])
    if len(line) <= width:
        return line
    tail = [*rest, *([left.removesuffix(" left")] if left else [])]
    room = width - sum(len(part) + 2 for part in tail) - 2
    where = _cut(where, max(room - len(name), _LEAST))
    head, _, last = name.rpartition(" ")  # the sparsity, or the ticket
    if head and len(last) < _LEAST:
        name = f"{_cut(head, max(room - len(where) - len(last) - 1, _LEAST))} {last}"
    else:
        name = _cut(name, max(room - len(where), _LEAST))
    return _cut("  ".join([where, name, *tail]), width)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…" * (most > 0)
