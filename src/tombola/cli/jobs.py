"""Runs at once: the options that ask for it, and what is shown meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from cyclopts import Parameter
from rich.progress import TaskID

from tombola._utils.errors import RunError, UsageError
from tombola.cli.terminal import err_console
from tombola.lab.jobs import Ended, Place, Processes, Ray, Task, at_once
from tombola.lab.report.stage_status import run_status
from tombola.lab.report.tables import Table
from tombola.runs.progress import stage_bar
from tombola.training.parallel import world


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How many runs are carried out at once, and where.

    Attributes:
        jobs: Runs at once, each in a process of one thread (or --threads). What dies is begun again.
        on: ray for tasks of Ray on this machine, or on the cluster of RAY_ADDRESS; ray://HOST:PORT for
            another one. --out has to be on a file system that all its machines share.
    """

    jobs: int | None = None
    on: str = ""

    def place(self, threads: int | None, device: str) -> Place | None:
        """Where runs are carried out; None for one after the other in this process."""
        if self.jobs is None and not self.on:
            return None
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"--jobs must be at least 1: got {self.jobs}")
        if world() is not None:
            raise UsageError("--jobs and --on are for one process: leave torchrun out")
        accelerated = device not in ("", "cpu")
        if self.on == "ray" or self.on.startswith("ray://"):
            address = self.on if "://" in self.on else ""
            return Ray(address, self.jobs, threads or 1, devices=int(accelerated))
        if self.on:
            raise UsageError(f"--on is ray or ray://HOST:PORT: got {self.on}")
        assert self.jobs is not None
        shared = device == "cuda" and torch.cuda.is_available()  # by its number it is one for all
        return Processes(self.jobs, range(torch.cuda.device_count()) if shared else ())


ONE = JobOptions()


def work_at_once(tasks: Sequence[Task], place: Place) -> tuple[list[Task], list[Ended]]:
    """Carry out runs in a place and show how far they are; which are done, which failed."""
    bar = stage_bar(err_console)
    whole, lines = bar.add_task("", total=len(tasks), words=dict), dict[Path, TaskID]()
    done, failed = list[Task](), list[Ended]()

    def look(running: list[Task]) -> None:
        ended = len(done) + len(failed)
        words = {"all": f"{ended} of {len(tasks)} runs have ended"}
        bar.update(whole, completed=ended, words=partial(dict, words))
        for path in lines.keys() - {task.path for task in running}:
            bar.remove_task(lines.pop(path))
        for task in () if bar.disable else running:
            with suppress(RunError):  # it has not begun
                status = run_status(task.path)
                if task.path not in lines:
                    lines[task.path] = bar.add_task("", total=status.wanted, words=dict)
                words = {"run": task.label, **status.words}
                bar.update(lines[task.path], completed=status.done, words=partial(dict, words))

    with bar:
        for ended in at_once(tasks, place, look):
            for words in _words(ended):
                bar.console.print(f"{ended.task.label}: {words}")
            if ended.error is None:
                done.append(ended.task)
            elif not ended.again:
                failed.append(ended)
    return [task for task in tasks if task in done], failed


def _words(ended: Ended) -> list[str]:
    if ended.error is None:
        return ended.said
    return [f"{'begun again: ' if ended.again else 'failed: '}{ended.error}"]


def failures(failed: Sequence[Ended]) -> list[Table]:
    """What failed, as a table beside the others."""
    rows = [[each.task.label, str(each.task.path), str(each.error)] for each in failed]
    return [Table("Runs that failed", ["run", "directory", "why"], rows)] if rows else []


def check(failed: Sequence[Ended], count: int) -> None:
    """Raise `RunError` where runs failed."""
    if failed:
        first = failed[0]
        raise RunError(
            f"{len(failed)} of {count} runs failed, the first in {first.task.path} ({first.error}): mend "
            "what is wrong; the same command goes on with them and does nothing twice"
        ) from first.error
