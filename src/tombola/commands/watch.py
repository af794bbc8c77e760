"""`tombola watch`: follow a run that another process makes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tombola.commands.options import Flag
from tombola.errors import UsageError
from tombola.report.progress import plain, status
from tombola.terminal import print_json


def watch(
    path: Path,
    *,
    every: float = 5.0,
    once: Flag = False,
    json: Flag = False,
) -> None:
    """Follow a run from its records: outcomes, stage, round, share removed, loss, similarity, time left.

    It ends when the run is finished, or when no process holds it any more.

    Example: tombola watch runs/digits-quick/seed0

    Parameters
    ----------
    path: Path
        The run directory.
    every: float
        Seconds between two looks.
    once: bool
        Look once.
    json: bool
        Look once, and print for machines.
    """
    if not every > 0:
        raise UsageError(f"--every is more than 0 seconds: got {every:g}")
    if json:
        print_json(plain(status(path)))
        return
    said: set[str] = set()
    while True:
        found = status(path)
        for words in (found.line, *found.alarms):
            if words not in said:
                sys.stdout.write(f"{words}\n")
                sys.stdout.flush()
                said.add(words)
        if found.state == "stopped":
            sys.stdout.write(f"no process works on it: `tombola resume {path}` goes on\n")
        if once or found.state != "running":
            return
        time.sleep(every)
