"""How far a run is, from its directory alone: another process may be writing it."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.analysis.alarmed import alarms
from tombola.methods import METHODS
from tombola.records import read_config, read_records, read_timings
from tombola.report.findings import expected


@dataclass(frozen=True)
class Status:
    """A run at one moment.

    Attributes:
        state: ``finished``, ``running`` (a process holds its lock), or ``stopped``.
        done, wanted: outcomes (method and sparsity) that were judged, and that were asked for.
        stage: the last that recorded something; empty if none did.
        round, removed, loss, kappa: the last that were recorded in this stage; None if there is none.
        seconds_left: from the mean seconds of an outcome so far; None where nothing was timed.
        alarms: what the alarm for collapse said, in words.
    """

    state: str
    done: int
    wanted: int
    stage: str = ""
    round: int | None = None
    removed: float | None = None
    loss: float | None = None
    kappa: float | None = None
    seconds_left: float | None = None
    alarms: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """For a terminal."""
        parts = [self.state, f"{self.done} of {self.wanted} outcomes", self.stage]
        parts += [f"round {self.round}"] if self.round is not None else []
        parts += [f"{self.removed:.1%} removed"] if self.removed is not None else []
        parts += [f"loss {self.loss:.4g}"] if self.loss is not None else []
        parts += [f"kappa {self.kappa:.3f}"] if self.kappa is not None else []
        if self.state == "running" and self.seconds_left is not None:
            parts.append(f"about {_time(self.seconds_left)} left")
        return ", ".join(part for part in parts if part)


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"


def status(path: Path) -> Status:
    """How far a run is; it is only read.

    Raises:
        RunError: it is no run, or its files are damaged.
    """
    config = read_config(path)
    rows = list(read_records(path)) if (path / "records.jsonl").exists() else []
    judged = {(row["method"], row["sparsity"]) for row in rows if row["event"] == "metric"}
    raised = alarms(rows)
    beyond = {s for alarm in raised if alarm.search == "own" for s in alarm.not_reached}
    wanted = [(m, s) for m, s in expected(config) if s not in beyond or METHODS[m].task == "single"]
    missing = [outcome for outcome in wanted if outcome not in judged]
    state = "finished" if wanted and not missing else "running" if _held(path) else "stopped"
    known = _last(rows)
    seconds = [value for value in read_timings(path).values() if value is not None]
    left = sum(seconds) / len(judged) * len(missing) if judged and seconds else None
    words = tuple(alarm.words for alarm in raised)
    return Status(state, len(wanted) - len(missing), len(wanted), seconds_left=left, alarms=words, **known)


def _last(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The last values of the stage that recorded last."""
    stage = next((row["stage"] for row in reversed(rows) if row.get("stage")), "")
    found: dict[str, Any] = {"stage": stage}
    for row in rows:
        if row.get("stage") != stage:
            continue
        if "loss" in row:
            found["loss"] = row["loss"]
        if "round" in row:
            found["round"] = row["round"] + 1
        if row["event"] == "watch":
            found["removed"], found["kappa"] = 1 - row["density"], row.get("kappa")
    return found


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


def plain(found: Status) -> dict[str, Any]:
    """For machines."""
    return {**vars(found), "alarms": list(found.alarms)}
