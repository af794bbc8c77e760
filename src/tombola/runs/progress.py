"""One line that moves while stages are worked on: what was recorded last, the time left, a bar.

`progress_bar` is that of calls from Python; `tombola.cli.display` has the one of the command line, over
several runs. Both only look on. rich, which draws, belongs to the extra ``lab`` and is imported when needed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tombola._utils.errors import UsageError, needs
from tombola.runs.status import StageStatus, clock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EVERY = 0.25  # seconds between two drawings: a step may take less than one of them


class Listener:
    """Listens to the stages of a run and keeps the one task of a bar.

    Args:
        bar: of `stage_bar`.
        where: the words in front.
    """

    def __init__(self, bar: Progress, where: str) -> None:
        self.bar, self.where, self.now = bar, where, StageStatus()
        self.task = bar.add_task("", total=None, words=self.words)

    def on_record(self, stage: str, record: Mapping[str, Any]) -> None:
        """A record was made (`tombola.runs.cache.OnRecord`)."""
        self._follow(stage)
        self.now = self.now.after(stage, record)

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """A stage has come so far (`tombola.runs.cache.OnProgress`)."""
        self._follow(stage)
        self.bar.update(self.task, completed=done, total=total)
        if done == total and self.bar.disable:
            self.say(", ".join(filter(None, [*self.now.words.values(), self.left()])))

    def say(self, words: str) -> None:
        """A line that stays."""
        self.bar.console.print(f"{self.where}: {words}", highlight=False, markup=False, soft_wrap=True)

    def words(self) -> dict[str, str]:
        """What there is to say now, most telling first."""
        return {"where": self.where, **self.now.words, "left": self.left()}

    def seconds(self) -> float | None:
        """The time left for this stage; None where nothing is known yet."""
        (task,) = self.bar.tasks
        return task.time_remaining

    def left(self) -> str:
        """The same in words."""
        rest = self.seconds()
        return f"{clock(rest)} in this stage" if rest else ""

    def _follow(self, stage: str) -> None:
        if stage != self.now.stage:
            self.now = StageStatus(stage)
            self.bar.reset(self.task)


def stage_bar(console: Console, timer: Callable[[], float] = time.monotonic, **options: Any) -> Progress:
    """Lines that move, on a terminal alone: of each task what its field ``words`` gives, and a bar."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Words(ProgressColumn):
        """The loss, the time left, or else all other words of a task, made when they are looked at."""

        def __init__(self, name: str = "", **options: Any) -> None:
            super().__init__(Column(no_wrap=True, overflow="ellipsis", **options))
            self.name = name

        def render(self, task: Task) -> Text:
            words = dict(task.fields["words"]())
            apart = {name: words.pop(name, "") for name in ("loss", "left")}
            return Text(apart.get(self.name, "  ".join(filter(None, words.values()))))

    return Progress(
        Words(ratio=1),
        Words("loss"),
        Words("left"),
        BarColumn(12),
        console=console,
        transient=True,
        expand=True,
        disable=not (
            console.is_interactive or console.is_jupyter
        ),  # a line that moves would be a thousand lines in a file
        get_time=timer,
        speed_estimate_period=3600.0,  # a round may take minutes
        **options,
    )


# -- calls from Python ---------------------------------------------------------------------------------------


class _Throttled(Listener):
    """Draws at most every `EVERY` seconds, and without a thread of its own: workers are forked meanwhile."""

    def __init__(self, bar: Progress, where: str, draw: Callable[[], None]) -> None:
        super().__init__(bar, where)
        self.draw, self.drawn_at = draw, 0.0

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Most are passed over."""
        if stage != self.now.stage or done == total or time.monotonic() - self.drawn_at >= EVERY:
            super().on_progress(stage, done, total)
            self.draw()
            self.drawn_at = time.monotonic()


@contextmanager
def progress_bar(where: str, wanted: bool | None = None) -> Iterator[Listener | None]:
    """What listens to stages and shows them while this lasts; nothing stays of it.

    Args:
        where: the words in front.
        wanted: None for a bar on a terminal and in a notebook, and nothing (None) elsewhere or without rich;
            True for a line per stage elsewhere, on standard error; False for nothing.

    Raises:
        MissingExtra: it is wanted, and rich is not installed.
    """
    if wanted not in (None, True, False):
        raise UsageError(f"progress is True, False or None (where somebody looks): got {wanted!r}")
    if wanted is False or (wanted is None and find_spec("rich") is None):
        yield None
        return
    with needs("lab", "a progress bar"):
        from rich.console import Console
    console = Console(stderr=True, markup=False)
    # What a program prints into a file stays there.
    bar = stage_bar(console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
    if bar.disable and not wanted:
        yield None
    elif console.is_jupyter:
        with _in_notebook(bar) as draw:
            yield _Throttled(bar, where, draw)
    else:
        with bar:
            yield _Throttled(bar, where, bar.refresh)


@contextmanager
def _in_notebook(bar: Progress) -> Iterator[Callable[[], None]]:
    """What draws the bar in the output of a cell; rich itself would need ipywidgets for that."""
    from IPython.display import display

    handle = display(bar, display_id=True)
    try:
        yield lambda: handle.update(bar)
    finally:
        handle.update({"text/plain": ""}, raw=True)
