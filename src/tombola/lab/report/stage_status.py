"""Where a run is, from their records; another process may be writing them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.lab.report.findings import expected
from tombola.runs.log import read_config, read_records, read_timings
from tombola.runs.status import StageStatus, clock
from tombola.training.callbacks.collapse import alarms

Timings = Mapping[str, float | None]  # seconds of each stage, in order; None where it was interrupted


@dataclass(frozen=True)
class RunStatus:
    """Where a run is."""

    state: str  # finished, running (a process holds its lock), or stopped
    done: int  # outcomes (method and sparsity) that were judged
    wanted: int  # those that were asked for
    now: StageStatus
    seconds_left: float | None = None  # None where too little was timed
    alarms: tuple[str, ...] = ()  # for collapse, in words

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
    """Where a run is; it is only read. A RunError where it is no run or its files are damaged."""
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


def seconds_left(runs: Iterable[tuple[Timings, int]]) -> float | None:
    """Seconds left for some runs: outcomes to come cost what those that are done took on average.

    None before the first outcome that was timed as a whole. An outcome takes the stages up to and with that
    which judges it. Of each run, the timings of its stages and how many outcomes are missing.

    >>> seconds_left([({"search-own-0.5": 9.0, "judge-rtl-0.5": 1.0, "search-own-0.9": 4.0}, 2)])
    16.0
    """
    spent, judged, begun = 0.0, 0, []
    for timings, missing in runs:
        stages: list[float | None] = []
        for name, seconds in timings.items():
            stages.append(seconds)
            if name.startswith("judge-"):
                if None not in stages:
                    spent, judged = spent + sum(filter(None, stages)), judged + 1
                stages = []
        begun.append((missing, sum(filter(None, stages))))
    if not judged:
        return None
    return sum(max(missing * spent / judged - seconds, 0.0) for missing, seconds in begun)
