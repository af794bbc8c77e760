"""What a command shows while it works: one line that moves on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tombola._utils.errors import UsageError, unknown
from tombola.cli.jobs import check, failures, work_at_once
from tombola.cli.terminal import err_console, out_console, say_aside, show
from tombola.data.dataset import Data
from tombola.lab.jobs import Ended, Place, Task
from tombola.lab.report.findings import Arm, expected, gather
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.report.stage_status import seconds_left
from tombola.lab.report.tables import paper_of, tables
from tombola.lab.report.verdicts import verdict
from tombola.runs.log import read_timings
from tombola.runs.progress import Listener, stage_bar
from tombola.runs.stages import Stage
from tombola.runs.status import StageStatus, clock
from tombola.training.parallel import world


class Display(Listener):
    """Listens to runs, one after another; ``wanted`` are the outcomes of each."""

    def __init__(
        self,
        console: Console,
        wanted: Mapping[Path, Sequence[Arm]],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stage_bar(console, timer), "loading")
        self.wanted = {
            path: [str(Stage("judge", method, sparsity=s)) for method, s in arms]
            for path, arms in wanted.items()
        }
        self.path = Path()
        self._timings = {path: read_timings(path) for path in wanted}

    def turn_to(self, where: str, path: Path) -> None:
        """Another run comes now."""
        self.where, self.path, self.now = where, path, StageStatus()
        self.bar.reset(self.task)

    def left(self) -> str:
        """The time left for all runs; that for this stage while nothing more is known."""
        rest = self.seconds()
        if rest is None:
            return ""
        (task,) = self.bar.tasks
        now = {**self._timings.get(self.path, {}), self.now.stage: (task.elapsed or 0.0) + rest}
        runs = {**self._timings, self.path: now}.items()
        left = seconds_left(
            (found, sum(j not in found for j in self.wanted.get(at, ()))) for at, found in runs
        )
        return super().left() if left is None else f"{clock(left + rest)} left"

    def _follow(self, stage: str) -> None:
        if stage != self.now.stage:
            self._timings[self.path] = read_timings(self.path)
        super()._follow(stage)


def run_and_compare(
    tasks: Sequence[Task],
    data: Mapping[str, Data],
    as_json: bool,
    brief: bool = False,
    place: Place | None = None,
) -> None:
    """Carry out runs of one order, show how far they are, then the comparison, or its verdict."""
    done, failed = work(tasks, data, place)
    if runs := [task.path for task in done]:
        rows = rows_of(runs)
        if as_json or not brief:
            show([*tables(rows), *failures(failed)], rows, as_json)
        if not as_json:
            head = rows[0]["experiment"], rows[0].get("preset", "")
            for words in verdict(gather(head, runs), paper_of(head)):
                out_console.print(words, soft_wrap=True)
        say_aside(f"runs: {', '.join(map(str, runs))}")
    check(failed, len(tasks))


def work(
    tasks: Sequence[Task], data: Mapping[str, Data], place: Place | None = None
) -> tuple[list[Task], list[Ended]]:
    """Carry out runs, in turn or at once, and show how far they are; which are done, and which failed.

    None are, in a process that does not write them: over ranks, rank 0 has results to show. In turn the first
    that fails is an error.
    """
    for task in tasks:
        if task.item not in data and "" in data:
            name = task.order.experiment.name
            raise UsageError(f"{name} has one network for all its data: leave out --item")
        if task.item not in data:
            raise UsageError(unknown("item", task.item, data))
    if place is not None:
        return work_at_once(tasks, place)
    display = Display(err_console, {task.path: _arms(task) for task in tasks})
    with display.bar:
        for task in tasks:
            _work_on(task, data[task.item], display)
    return (list(tasks) if (world() or (0, 1))[0] == 0 else []), []


def _arms(task: Task) -> list[Arm]:
    return expected({"methods": list(task.order.methods), "settings": task.order.settings.plain()})


def _work_on(task: Task, data: Data, display: Display) -> None:
    display.turn_to(task.label, task.path)
    words = task.order.run(data, task.seed, task.path, display.on_progress, task.item, display.on_record)
    try:
        for word in words:
            display.say(word)
    except KeyboardInterrupt:
        if (task.path / "config.yaml").exists():
            display.say(f"`tombola resume {task.path}`, or the same command, goes on from here")
        raise
