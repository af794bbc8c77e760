"""What a command shows while it works: one line that moves on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tombola.lab.report.findings import Arm
from tombola.lab.report.moment import Moment, clock, fitted, named
from tombola.lab.report.pace import Todo, seconds_left
from tombola.runs.log import read_timings

_BAR = 30  # signs at most, at least a third of them
_STALE = 1.0  # seconds that an estimate of the time left is good for


@dataclass
class Display:
    """Listens to runs, one after another.

    Attributes:
        console: where it shows; nothing moves unless it is a terminal.
        runs: the directories of all runs, done or to come.
        wanted: the outcomes that each of them wants.
        timer: gives seconds.
    """

    console: Console
    runs: Sequence[Path]
    wanted: Sequence[Arm]
    timer: Callable[[], float] = time.monotonic
    now: Moment = field(default_factory=Moment)
    where: str = "loading"
    path: Path | None = None
    done: int = 0
    total: int = 0
    _began: tuple[float, int] = (0.0, 0)  # when this stage began, and how far it was
    _heard: float = 0.0  # when something was last heard
    _timings: dict[Path, Mapping[str, float | None]] = field(init=False)
    _left: tuple[float, str] = (float("-inf"), "")
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._timings = {path: read_timings(path) for path in self.runs}

    def __enter__(self) -> Display:
        if self.console.is_terminal:  # a line that moves would be a thousand lines in a file
            live = Live(get_renderable=self.line, console=self.console, transient=True, refresh_per_second=4)
            self._stack.enter_context(live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def turn_to(self, where: str, path: Path) -> None:
        """Another run comes now."""
        self.where, self.path, self.now, self.done, self.total = where, path, Moment(), 0, 0
        self._heard = self.timer()

    def on_record(self, stage: str, record: Mapping[str, Any]) -> None:
        """A record was made (`tombola.runs.directory.OnRecord`)."""
        self._follow(stage)
        self.now, self._heard = self.now.after(stage, record), self.timer()

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """A stage has come so far (`tombola.runs.directory.OnProgress`)."""
        self._follow(stage)
        if not self.total and done > 1:  # it goes on from a saved state
            self._began = self.timer(), done
        self.done, self.total, self._heard = done, total, self.timer()
        if done == total and not self.console.is_terminal:
            words = [named(stage), *self.now.words[1:], self.left()]
            self.say(", ".join(filter(None, words)))

    def say(self, words: str) -> None:
        """A line that stays."""
        self.console.print(f"{self.where}: {words}", highlight=False, markup=False, soft_wrap=True)

    def line(self) -> Text:
        """The line that moves, no wider than the terminal."""
        width = self.console.width - 1  # a full line would break on some terminals
        words = fitted(self.where, self.now, self.left(), width)
        text = Text(words, no_wrap=True, overflow="crop")
        room = min(width - len(words) - 2, _BAR)
        if room >= _BAR // 3 and self.total:
            filled = round(room * min(self.done / self.total, 1))
            text.append("  ").append("━" * filled, "green").append("━" * (room - filled), "dim")
        return text

    def left(self) -> str:
        """The time left for all runs; that for this stage while nothing more is known."""
        if self.timer() - self._left[0] > _STALE:
            self._left = self.timer(), self._estimate()
        return self._left[1]

    def _follow(self, stage: str) -> None:
        if stage == self.now.stage:
            return
        self.now, self.done, self.total = Moment(stage), 0, 0
        self._began, self._left = (self._heard, 0), (float("-inf"), "")
        if self.path is not None:
            self._timings[self.path] = read_timings(self.path)

    def _estimate(self) -> str:
        begun, first = self._began
        elapsed, came = self.timer() - begun, self.done - first
        rest = elapsed * (self.total - self.done) / came if came > 0 else None
        timings = dict(self._timings)
        if self.path is not None and rest is not None:
            timings[self.path] = {**timings.get(self.path, {}), self.now.stage: elapsed + rest}
        runs = [Todo(self._missing(found), found) for found in timings.values()]
        left = seconds_left(runs) if rest is not None else None
        if left is not None and rest is not None:
            return f"{clock(left + rest)} left"
        return f"{clock(rest)} in this stage" if rest else ""

    def _missing(self, timings: Mapping[str, float | None]) -> list[Arm]:
        return [outcome for outcome in self.wanted if "judge-{}-{}".format(*outcome) not in timings]
