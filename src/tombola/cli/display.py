"""What a command shows while it works: one line that moves on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tombola._utils.errors import UsageError, unknown
from tombola.cli.terminal import err_console, out_console, show
from tombola.data.dataset import Data
from tombola.lab.launch import Order
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

Where = Sequence[tuple[int, str, Path]]  # seed, item and directory of each run


class Display(Listener):
    """Listens to runs, one after another."""

    def __init__(
        self,
        console: Console,
        runs: Sequence[Path],
        wanted: Sequence[Arm],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stage_bar(console, timer), "loading")
        self.wanted = [str(Stage("judge", method, sparsity=s)) for method, s in wanted]
        self.path = Path()
        self._timings = {path: read_timings(path) for path in runs}

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
        runs = {**self._timings, self.path: now}.values()
        left = seconds_left((found, sum(judge not in found for judge in self.wanted)) for found in runs)
        return super().left() if left is None else f"{clock(left + rest)} left"

    def _follow(self, stage: str) -> None:
        if stage != self.now.stage:
            self._timings[self.path] = read_timings(self.path)
        super()._follow(stage)


def run_and_compare(
    order: Order, data: Mapping[str, Data], where: Where, as_json: bool, brief: bool = False
) -> None:
    """Carry out an order for each seed and item, show how far it is, then the comparison, or its verdict."""
    if not work(order, data, where):
        return
    runs = [path for _, _, path in where]
    rows = rows_of(runs)
    if as_json or not brief:
        show(tables(rows), rows, as_json)
    if not as_json:
        head = rows[0]["experiment"], rows[0].get("preset", "")
        for words in verdict(gather(head, runs), paper_of(head)):
            out_console.print(words, highlight=False, soft_wrap=True)
    err_console.print(f"runs: {', '.join(str(path) for _, _, path in where)}", highlight=False)


def work(order: Order, data: Mapping[str, Data], where: Where, note: str = "") -> bool:
    """Carry out an order for each seed and item, and show how far it is; ``note`` stands before each word.

    Whether this process is the one that writes the runs: over ranks, rank 0 alone has results to show.
    """
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
    return (world() or (0, 1))[0] == 0
