"""Where a stage and its run are, from their records; another process may be writing them."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tombola.lab.report.eta import clock, seconds_left
from tombola.lab.report.findings import expected
from tombola.lab.report.tables import share
from tombola.runs.log import read_config, read_records, read_timings
from tombola.runs.stages import Stage
from tombola.training.callbacks.collapse import alarms


@dataclass(frozen=True)
class StageStatus:
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

    def after(self, stage: str, record: Mapping[str, Any]) -> StageStatus:
        """The status after one more record; those of another stage begin anew.

        >>> now = StageStatus().after("search-own-0.5", {"event": "prune", "round": 0, "loss": 0.25})
        >>> now.after("search-own-0.5", {"event": "watch", "round": 0, "density": 0.8}).words
        {'stage': 'search own 50%', 'round': 'round 1', 'density': 'density .800', 'loss': 'loss .2500'}
        """
        if not stage:
            return self
        found = self if stage == self.stage else StageStatus(stage)
        if "round" in record and record["event"] in ("prune", "watch"):
            found = replace(found, round=record["round"] + 1)
        if "loss" in record:
            found = replace(found, loss=record["loss"])
        if record["event"] == "watch":
            found = replace(found, density=record["density"], kappa=record.get("kappa"))
        return found

    @property
    def words(self) -> dict[str, str]:
        """What is known, most telling first."""
        found = {"stage": stage_words(self.stage)} if self.stage else {}
        found |= {"round": f"round {self.round}"} if self.round is not None else {}
        found |= {"density": f"density {share(self.density)}"} if self.density is not None else {}
        found |= {"loss": f"loss {_loss(self.loss)}"} if self.loss is not None else {}
        found |= {"kappa": f"kappa {share(self.kappa)}"} if self.kappa is not None else {}
        return found


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
    return f"{value:.4f}".removeprefix("0") if 1e-3 <= abs(value) < 10 else f"{value:.3g}"


@dataclass(frozen=True)
class RunStatus:
    """Where a run is.

    Attributes:
        state: ``finished``, ``running`` (a process holds its lock), or ``stopped``.
        done, wanted: outcomes (method and sparsity) that were judged, and that were asked for.
        now: the last stage that recorded something, and what that was.
        seconds_left: from the seconds of stages so far; None where too little was timed.
        alarms: what the alarm for collapse said, in words.
    """

    state: str
    done: int
    wanted: int
    now: StageStatus
    seconds_left: float | None = None
    alarms: tuple[str, ...] = ()

    @property
    def words(self) -> dict[str, str]:
        """What is known, most telling first."""
        found = {"state": self.state, "outcomes": f"{self.done} of {self.wanted} outcomes"}
        if self.state != "finished":
            found |= self.now.words
        if self.state == "running" and self.seconds_left is not None:
            found["left"] = f"about {clock(self.seconds_left)} left"
        return found

    @property
    def plain(self) -> dict[str, Any]:
        """For machines."""
        metadata = {**vars(self), **vars(self.now), "alarms": list(self.alarms)}
        return {name: value for name, value in metadata.items() if name != "now"}


def run_status(path: Path) -> RunStatus:
    """Where a run is; it is only read.

    Raises:
        RunError: it is no run, or its files are damaged.
    """
    config = read_config(path)
    rows = list(read_records(path)) if (path / "records.jsonl").exists() else []
    judged = {(row["method"], row["sparsity"]) for row in rows if row["event"] == "metric"}
    wanted = expected(config)
    missing = sum(outcome not in judged for outcome in wanted)
    state = "finished" if wanted and not missing else "running" if _held(path) else "stopped"
    left = seconds_left([(read_timings(path), missing)])
    now = StageStatus()
    for row in rows:
        now = now.after(row.get("stage", ""), row)
    return RunStatus(state, len(wanted) - missing, len(wanted), now, left, tuple(alarms(rows)))


def _held(path: Path) -> bool:
    """Whether a process holds the run; a shared lock of ours is gone before it could be in the way."""
    try:
        with (path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
