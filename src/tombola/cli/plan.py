"""``tombola plan``: what runs or a sweep will take, before they are begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tombola._utils.errors import UsageError
from tombola._utils.renamed import renewed_changes
from tombola.cli.options import DEFAULTS, Flag, Integers, RunOptions, Words, once, say_overridden
from tombola.cli.terminal import out_console, show
from tombola.lab.jobs import Task
from tombola.lab.planning import Forecast, forecast
from tombola.lab.report.tables import Table
from tombola.lab.sweep import grid, with_controls
from tombola.runs.status import clock


def plan(
    name: str,
    /,
    *,
    method: Words = (),
    seed: Integers = (0,),
    item: Words = (),
    set: Words = (),
    sweep: Flag = False,
    jobs: int = 1,
    workers: int = 1,
    out: Path | None = None,
    options: RunOptions = DEFAULTS,
) -> None:
    """Say what runs will take: trainings, steps, time, memory, disk. It takes some seconds itself.

    Stages are counted as a run asks for them; a few steps of the real network are measured. What is in
    --out already is not counted.

    Example: tombola plan cifar10 --method rtl imp --seed 0 1 2 --jobs 3

    Args:
        name: The experiment; `tombola experiments` lists them.
        method: Which methods, as for `tombola run`.
        seed: As for `tombola run`.
        item: As for `tombola run`.
        set: Settings, written as for `tombola sweep`: T=40, or with --sweep a grid, T=10,20,40.
        sweep: Of `tombola sweep`, with the controls of the methods; what its runs share is counted once.
        jobs: Runs at once, each in a process of its own.
        workers: Processes that share the tickets of a round in each run (`--parallel workers`, or ranks).
        out: As for the command that is planned.
    """
    once("--seed", seed)
    for option, value in (("--jobs", jobs), ("--workers", workers)):
        if value < 1:
            raise UsageError(f"{option} must be at least 1: got {value}")
    changes = renewed_changes(set)
    order = options.order(name, with_controls(method or ("imp",)) if sweep else method)
    folder = order.folder(out or Path("sweeps" if sweep else "runs"))
    points, data = grid(order, folder, changes, alone=not sweep), order.load()
    say_overridden([point.order for point in points], changes)
    items = [(point, i) for point in points for i in item or data]
    tasks = [Task.of(p.order, p.folder / i, s, i, p.label) for p, i in items for s in seed]
    count = options.threads or (1 if jobs * workers > 1 else None)
    found = forecast(tasks, data, jobs, workers, count)
    rows = found.rows(order.methods)
    show([_table(rows)], {**found.plain(), "methods": rows}, options.json)
    if not options.json:
        out_console.print(_words(found), soft_wrap=True)


def _table(rows: list[dict[str, Any]]) -> Table:
    body = []
    for row in rows:
        counts = ["at most " * row["at_most"] + f"{row[of]:,}" for of in ("trainings", "steps")]
        body.append([row["method"], *counts, clock(row["seconds"])])
    return Table("What each method adds to those above it", ["method", "trainings", "steps", "time"], body)


def _words(found: Forecast) -> str:
    of = found.plain()
    runs = f"{of['runs']} run{'s' * (of['runs'] > 1)}"
    how = f"{found.jobs} at once" if found.jobs > 1 else "one after the other"
    how += f", {found.workers} workers each" if found.workers > 1 else ""
    return (
        f"{runs}, {how}: {clock(of['seconds'])} on processors like this one ({of['trainings']:,} trainings, "
        f"{of['steps']:,} steps).\nDisk: at most {_size(of['bytes'])} and the records. Memory: "
        f"{_size(of['memory_bytes'])} for each process."
    )


def _size(count: float) -> str:
    """Bytes for readers.

    >>> _size(2_500_000), _size(3e9)
    ('2.5 MB', '3.0 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
