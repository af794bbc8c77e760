"""``tombola sweep``: curves of methods over sparsities, and grids of settings."""

from __future__ import annotations

import sys
from pathlib import Path

from tombola._utils.errors import UsageError
from tombola.cli.display import work
from tombola.cli.options import Flag, Integers, Numbers, Words, absolute, once, use_threads
from tombola.cli.overrides import overridden
from tombola.cli.terminal import err_console, show
from tombola.lab.launch import Order
from tombola.lab.report.curve import measure, table, write_sweep
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.sweep import grid, with_controls
from tombola.training.parallel import Parallel


def sweep(
    name: str,
    /,
    *,
    preset: str | None = None,
    method: Words = ("imp",),
    sparsity: Numbers = (),
    seed: Integers = (0,),
    set: Words = (),
    controls: bool = True,
    metric: str | None = None,
    data: str | None = None,
    augment: bool | None = None,
    tune: Flag = False,
    out: Path = Path("sweeps"),
    threads: int | None = None,
    parallel: Parallel = "auto",
    device: str = "",
    json: Flag = False,
) -> None:
    """Run a grid and draw it: quality over sparsity with the controls, heat maps over two settings.

    Interrupted, the same command goes on. Dense trainings and rewind points are computed once for all points
    of the grid that have them in common.

    Example: tombola sweep digits --method imp snip --sparsity 0.5 0.75 0.9 --set T=5,10

    Parameters
    ----------
    name: str
        The experiment, one with a single network for all its data; `tombola experiments` lists them.
    preset: str
        A named set of settings; `tombola experiments` lists them, the first is the default.
    method: tuple[str, ...]
        Which methods, as `tombola experiments` lists them.
    sparsity: tuple[float, ...]
        Shares of weights removed, such as 0.5 0.9; the preset's by default.
    seed: tuple[int, ...]
        Integers; intervals are over them.
    set: tuple[str, ...]
        Settings: T=40, or a grid, T=10,20,40 (semicolons where values hold commas).
    controls: bool
        Add the dense network and the controls of the methods.
    metric: str
        What is drawn, as `tombola compare --json` names it; accuracy by default, where there is one.
    data: str
        A folder with the data, or the name of a hub data set; what ships inside a dependency by default.
    augment: bool
        Random crop and flip; the preset's choice by default.
    tune: bool
        Leave the test split alone: judge on one half of validation. For choosing settings.
    out: Path
        Where everything goes: OUT/NAME-PRESET, with sweep.html, sweep.json and the figures as SVG.
    threads: int
        Threads of one process, or workers of one thread; all cores by default. Another number may change the
        last bits.
    parallel: Parallel
        The K trainings of a round, as in `tombola run`.
    device: str
        Where to compute, as in `tombola run`.
    json: bool
        Print rows for machines instead of tables.
    """
    use_threads(threads)
    once("--seed", seed)
    methods = with_controls(method) if controls else list(method)
    source = data and absolute(data)
    base = Order.of(  # without changes: those make the grid
        name,
        preset,
        sparsity,
        (),
        augment,
        source=source,
        tune=tune,
        methods=methods,
        parallel=parallel,
        device=device,
    )
    folder = out / f"{name}-{base.preset}"
    points, loaded = grid(base, folder, set), base.load()
    if "" not in loaded:
        raise UsageError(f"{name} has a network per item: sweep an experiment with one for all its data")
    lines = [line for p in points for line in overridden(p.order.methods, p.order.settings, set)]
    for line in dict.fromkeys(lines):
        err_console.print(line, highlight=False, soft_wrap=True)
    for point in points:
        where = [(s, "", point.folder / f"seed{s}") for s in seed]
        work(point.order, loaded, where, f"{point.label}: " if point.values else "")
    found = [(p.values, rows_of([p.folder / f"seed{s}" for s in seed])) for p in points]
    files = write_sweep(folder, f"{name}, preset {base.preset}", found, method, metric)
    plain = [{**({"grid": at} if at else {}), **row} for at, rows in found for row in rows]
    drawn = measure(plain, metric)
    titles = [point.label or "Sparsity and quality" for point in points]
    show([table(rows, drawn, title) for title, (_, rows) in zip(titles, found, strict=True)], plain, json)
    sys.stderr.write("".join(f"{file}\n" for file in files))
    err_console.print(f"runs: {folder}", highlight=False)
