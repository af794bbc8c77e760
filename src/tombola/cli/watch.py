"""`tombola watch`: follow runs that other processes make."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from tombola._utils.errors import UsageError
from tombola.cli.display import stage_bar
from tombola.cli.options import Flag
from tombola.cli.terminal import out_console, print_json
from tombola.lab.report.stage_status import RunStatus, run_status
from tombola.lab.report.tensorboard import Events, run_names
from tombola.lab.results import find_runs
from tombola.runs.log import read_config


def watch(
    path: Path,
    /,
    *,
    every: float = 5.0,
    once: Flag = False,
    tensorboard: Path | None = None,
    json: Flag = False,
) -> None:
    """Follow runs from their records: outcomes, stage, round, density, loss, similarity (kappa), time left.

    A terminal shows a line for each run, which moves; a file gets a line when something has changed. It ends
    when no process works on any of them.

    Example: tombola watch runs/digits-quick --tensorboard curves

    Args:
        path: A run directory, or a folder that holds some.
        every: Seconds between two looks.
        once: Look once.
        tensorboard: A folder for event files of TensorBoard, also of runs that have ended; `tensorboard
            --logdir FOLDER` draws them. Needs the extra `tensorboard`.
        json: Look once, and print for machines: an object of one run, a list of those in a folder.
    """
    if not every > 0:
        raise UsageError(f"--every is more than 0 seconds: got {every:g}")
    alone = (path / "config.yaml").is_file() or not path.is_dir()
    runs = [path] if alone else find_runs([path])
    marks = {run: f"{name}: " if len(runs) > 1 else "" for run, name in run_names(runs).items()}
    events = Events(tensorboard, runs) if tensorboard is not None else None
    said: set[str] = set()
    bar = stage_bar(out_console)
    bar.disable |= once or json
    with bar, events or nullcontext():
        tasks = {run: bar.add_task("", total=None, words=dict) for run in runs}
        while True:
            found = {run: run_status(run) for run in runs}
            if events is not None:
                events.look()
            if json:
                rows = [{"run": str(run), **each.plain} for run, each in found.items()]
                print_json(found[path].plain if alone else rows)
                return
            last = once or all(each.state != "running" for each in found.values())
            if last or bar.disable:
                bar.stop()
                lines = [marks[run] + line for run, each in found.items() for line in _lines(run, each)]
                new = [line for line in lines if line not in said]
                said.update(new)
                sys.stdout.write("".join(f"{line}\n" for line in new))
                sys.stdout.flush()
            if last:
                return
            for run, each in found.items():
                words: Callable[[], dict[str, str]] = partial(dict, run=marks[run].rstrip(), **each.words)
                bar.update(tasks[run], completed=each.done, total=each.wanted, words=words)
            time.sleep(every)


def _lines(run: Path, found: RunStatus) -> Iterator[str]:
    """What there is to say of a run."""
    yield ", ".join(found.words.values())
    yield from found.alarms
    if found.state == "stopped":
        known = read_config(run).get("experiment")
        onwards = f"`tombola resume {run}`" if known else "the program of your own that made it"
        yield f"no process works on it: {onwards} goes on"
