"""What a command shows while it works: one line that moves on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from tombola._utils.errors import UsageError, unknown
from tombola.cli.terminal import err_console, show
from tombola.data.dataset import Data
from tombola.lab.launch import Order
from tombola.lab.report.findings import Arm, expected
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.report.stage_status import StageStatus, clock, seconds_left
from tombola.lab.report.tables import tables
from tombola.runs.log import read_timings
from tombola.runs.stages import Stage

Where = Sequence[tuple[int, str, Path]]  # seed, item and directory of each run


class _Words(ProgressColumn):
    """The loss, the time left, or else all other words of a task, made when they are looked at."""

    def __init__(self, name: str = "", **options: Any) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis", **options))
        self.name = name

    def render(self, task: Task) -> Text:
        words = dict(task.fields["words"]())
        apart = {name: words.pop(name, "") for name in ("loss", "left")}
        return Text(apart.get(self.name, "  ".join(filter(None, words.values()))))


def stage_bar(console: Console, timer: Callable[[], float] = time.monotonic) -> Progress:
    """Lines that move, on a terminal alone: of each task what its field ``words`` gives, and a bar."""
    return Progress(
        _Words(ratio=1),
        _Words("loss"),
        _Words("left"),
        BarColumn(12),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_interactive,  # a line that moves would be a thousand lines in a file
        get_time=timer,
        speed_estimate_period=3600.0,  # a round may take minutes
    )


class Display:
    """Listens to runs, one after another."""

    def __init__(
        self,
        console: Console,
        runs: Sequence[Path],
        wanted: Sequence[Arm],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.wanted = [str(Stage("judge", method, sparsity=s)) for method, s in wanted]
        self.bar = stage_bar(console, timer)
        self.task = self.bar.add_task("", total=None, words=self.words)
        self.where, self.path, self.now = "loading", Path(), StageStatus()
        self._timings = {path: read_timings(path) for path in runs}

    def turn_to(self, where: str, path: Path) -> None:
        """Another run comes now."""
        self.where, self.path, self.now = where, path, StageStatus()
        self.bar.reset(self.task)

    def on_record(self, stage: str, record: Mapping[str, Any]) -> None:
        """A record was made (`tombola.runs.directory.OnRecord`)."""
        self._follow(stage)
        self.now = self.now.after(stage, record)

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """A stage has come so far (`tombola.runs.directory.OnProgress`)."""
        self._follow(stage)
        self.bar.update(self.task, completed=done, total=total)
        if done == total and self.bar.disable:
            self.say(", ".join(filter(None, [*self.now.words.values(), self.left()])))

    def say(self, words: str) -> None:
        """A line that stays."""
        self.console.print(f"{self.where}: {words}", highlight=False, markup=False, soft_wrap=True)

    def words(self) -> dict[str, str]:
        """What there is to say now, most telling first."""
        return {"where": self.where, **self.now.words, "left": self.left()}

    def left(self) -> str:
        """The time left for all runs; that for this stage while nothing more is known."""
        (task,) = self.bar.tasks
        rest = task.time_remaining
        if rest is None:
            return ""
        now = {**self._timings.get(self.path, {}), self.now.stage: (task.elapsed or 0.0) + rest}
        runs = {**self._timings, self.path: now}.values()
        left = seconds_left((found, sum(judge not in found for judge in self.wanted)) for found in runs)
        if left is not None:
            return f"{clock(left + rest)} left"
        return f"{clock(rest)} in this stage" if rest else ""

    def _follow(self, stage: str) -> None:
        if stage != self.now.stage:
            self.now = StageStatus(stage)
            self.bar.reset(self.task)
            self._timings[self.path] = read_timings(self.path)


def run_and_compare(order: Order, data: Mapping[str, Data], where: Where, as_json: bool) -> None:
    """Carry out an order for each seed and item, show how far it is, then the comparison."""
    work(order, data, where)
    rows = rows_of([path for _, _, path in where])
    show(tables(rows), rows, as_json)
    err_console.print(f"runs: {', '.join(str(path) for _, _, path in where)}", highlight=False)


def work(order: Order, data: Mapping[str, Data], where: Where, note: str = "") -> None:
    """Carry out an order for each seed and item, and show how far it is; ``note`` stands before each word."""
    for _, item, _ in where:
        if item not in data and "" in data:
            raise UsageError(f"{order.experiment.name} has one network for all its data: leave out --item")
        if item not in data:
            raise UsageError(unknown("item", item, data))
    wanted = expected({"methods": list(order.methods), "settings": order.settings.plain()})
    display = Display(err_console, [path for _, _, path in where], wanted)
    with display.bar:
        for seed, item, path in where:
            display.turn_to(note + (f"{item}, seed {seed}" if item else f"seed {seed}"), path)
            try:
                for word in order.run(data[item], seed, path, display.on_progress, item, display.on_record):
                    display.say(word)
            except KeyboardInterrupt:
                if (path / "config.yaml").exists():
                    display.say(f"`tombola resume {path}`, or the same command, goes on from here")
                raise
