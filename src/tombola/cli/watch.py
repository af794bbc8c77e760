"""`tombola watch`: follow runs that other processes make."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tombola._utils.errors import UsageError
from tombola.cli.options import Flag
from tombola.cli.terminal import print_json
from tombola.lab.report.progress import Status, plain, status
from tombola.lab.report.rows import find_runs
from tombola.lab.report.tensorboard import Events, names
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

    It writes a line when something has changed, and ends when no process works on any of them.

    Example: tombola watch runs/digits-quick --tensorboard curves

    Parameters
    ----------
    path: Path
        A run directory, or a folder that holds some.
    every: float
        Seconds between two looks.
    once: bool
        Look once.
    tensorboard: Path
        A folder for event files of TensorBoard, also of runs that have ended; `tensorboard --logdir FOLDER`
        draws them. Needs the extra `tensorboard`.
    json: bool
        Look once, and print for machines: an object of one run, a list of those in a folder.
    """
    if not every > 0:
        raise UsageError(f"--every is more than 0 seconds: got {every:g}")
    alone = (path / "config.yaml").is_file() or not path.is_dir()
    runs = [path] if alone else find_runs([path])
    with ExitStack() as stack:
        events = stack.enter_context(Events(tensorboard, runs)) if tensorboard is not None else None
        said: set[str] = set()
        while True:
            found = dict(zip(runs, map(status, runs), strict=True))
            if events is not None:
                events.look()
            if json:
                print_json(
                    plain(found[path]) if alone else [{"run": str(r), **plain(found[r])} for r in runs]
                )
                return
            for line in _lines(found):
                if line not in said:
                    sys.stdout.write(f"{line}\n")
                    sys.stdout.flush()
                    said.add(line)
            if once or all(each.state != "running" for each in found.values()):
                return
            time.sleep(every)


def _lines(found: dict[Path, Status]) -> list[str]:
    """What there is to say of each run, with its name where there are several."""
    lines = []
    for run, name in names(list(found)).items():
        mark = f"{name}: " if len(found) > 1 else ""
        lines += [f"{mark}{words}" for words in (found[run].line, *found[run].alarms)]
        if found[run].state == "stopped":
            known = read_config(run).get("experiment")
            onwards = f"`tombola resume {run}`" if known else "the program of your own that made it"
            lines.append(f"{mark}no process works on it: {onwards} goes on")
    return lines
