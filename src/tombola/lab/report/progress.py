"""How far a run is, from its directory alone: another process may be writing it."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.lab.report.findings import expected
from tombola.lab.report.moment import Moment, clock
from tombola.lab.report.pace import Todo, seconds_left
from tombola.runs.log import read_config, read_records, read_timings
from tombola.training.callbacks.collapse import alarms


@dataclass(frozen=True)
class Status:
    """A run at one moment.

    Attributes:
        state: ``finished``, ``running`` (a process holds its lock), or ``stopped``.
        done, wanted: outcomes (method and sparsity) that were judged, and that were asked for.
        now: the last that recorded something, and what that was.
        seconds_left: from the seconds of stages so far; None where too little was timed.
        alarms: what the alarm for collapse said, in words.
    """

    state: str
    done: int
    wanted: int
    now: Moment
    seconds_left: float | None = None
    alarms: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """For a terminal."""
        parts = [self.state, f"{self.done} of {self.wanted} outcomes"]
        parts += self.now.words if self.state != "finished" else []
        if self.state == "running" and self.seconds_left is not None:
            parts.append(f"about {clock(self.seconds_left)} left")
        return ", ".join(parts)


def status(path: Path) -> Status:
    """How far a run is; it is only read.

    Raises:
        RunError: it is no run, or its files are damaged.
    """
    config = read_config(path)
    rows = list(read_records(path)) if (path / "records.jsonl").exists() else []
    judged = {(row["method"], row["sparsity"]) for row in rows if row["event"] == "metric"}
    wanted = expected(config)
    missing = [outcome for outcome in wanted if outcome not in judged]
    state = "finished" if wanted and not missing else "running" if _held(path) else "stopped"
    left = seconds_left([Todo(missing, read_timings(path))])
    now = Moment()
    for row in rows:
        now = now.after(row.get("stage", ""), row)
    return Status(state, len(wanted) - len(missing), len(wanted), now, left, tuple(alarms(rows)))


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
    metadata = {**vars(found), **vars(found.now), "alarms": list(found.alarms)}
    return {name: value for name, value in metadata.items() if name != "now"}
