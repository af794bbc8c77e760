"""``tombola sweep``: curves of methods over sparsities, and grids of settings."""

from __future__ import annotations

import sys
from pathlib import Path

from tombola._utils.errors import UsageError
from tombola._utils.renamed import renewed_changes
from tombola.cli.display import work
from tombola.cli.jobs import ONE, JobOptions, check, failures
from tombola.cli.options import DEFAULTS, Integers, RunOptions, Words, once, say_overridden
from tombola.cli.terminal import say_aside, show
from tombola.lab.jobs import Task
from tombola.lab.report.curves import measure
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.report.sweep import table, write_sweep
from tombola.lab.sweep import grid, label, with_controls


def sweep(
    name: str,
    /,
    *,
    method: Words = ("imp",),
    seed: Integers = (0,),
    set: Words = (),
    controls: bool = True,
    metric: str | None = None,
    out: Path = Path("sweeps"),
    options: RunOptions = DEFAULTS,
    at_once: JobOptions = ONE,
) -> None:
    """Run a grid and draw it: quality over sparsity with the controls, heat maps over two settings.

    Interrupted, the same command goes on. Dense trainings and rewind points are computed once for all points
    of the grid that have them in common.

    Example: tombola sweep digits --method imp snip --sparsity 0.5 0.75 0.9 --set T=5,10 --jobs 4

    Args:
        name: The experiment, one with a single network for all its data; `tombola experiments` lists them.
        method: Which methods, as `tombola experiments` lists them.
        seed: Integers; intervals are over them.
        set: Settings: T=40, or a grid, T=10,20,40 (semicolons where values hold commas).
        controls: Add the dense network and the controls of the methods.
        metric: What is drawn, as `tombola compare --json` names it; accuracy by default, where there is one.
        out: Where everything goes: OUT/NAME-PRESET, with sweep.html, sweep.json and the figures as SVG.
    """
    once("--seed", seed)
    changes = renewed_changes(set)
    base = options.order(name, with_controls(method) if controls else method)  # the changes make the grid
    folder, loaded = base.folder(out), base.load()
    points = grid(base, folder, changes)
    if "" not in loaded:
        raise UsageError(f"{name} has a network per item: sweep an experiment with one for all its data")
    say_overridden([point.order for point in points], changes)
    tasks = [Task.of(p.order, p.folder, s, point=p.label) for p in points for s in seed]
    done, failed = work(tasks, loaded, at_once.place(options.threads, options.device))
    runs = [(p.values, [t.path for t in done if t.path.parent == p.folder]) for p in points]
    found = [(values, rows_of(paths)) for values, paths in runs if paths]
    if not found:
        check(failed, len(tasks))
        return
    files = write_sweep(folder, f"{name}, preset {base.preset}", found, method, metric)
    plain = [{**({"grid": at} if at else {}), **row} for at, rows in found for row in rows]
    drawn = measure(plain, metric)
    made = [table(rows, drawn, label(values) or "Sparsity and quality") for values, rows in found]
    show([*made, *failures(failed)], plain, options.json)
    sys.stderr.write("".join(f"{file}\n" for file in files))
    say_aside(f"runs: {folder}")
    check(failed, len(tasks))
