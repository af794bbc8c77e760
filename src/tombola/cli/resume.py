"""``tombola resume``: go on with an interrupted run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tombola.cli.display import run_and_compare
from tombola.cli.options import Flag, use_threads
from tombola.lab.jobs import Task
from tombola.lab.launch import order_of
from tombola.training.parallel import Parallel


def resume(
    path: Path, /, *, threads: int | None = None, parallel: Parallel = "auto", json: Flag = False
) -> None:
    """Go on with an interrupted run; the result is the same, byte for byte.

    Example: tombola resume runs/digits-quick/seed0

    Args:
        path: The run directory.
        threads: As they were when the run began, by default.
        parallel: As in `tombola run`; another way than the run began with is an error.
        json: Print rows for machines instead of tables.
    """
    order, seed, item = order_of(path)
    use_threads(threads)
    order = replace(order, parallel=parallel, threads=threads)
    run_and_compare([Task(order, seed, item, path)], order.load(), json)
