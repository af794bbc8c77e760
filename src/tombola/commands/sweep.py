"""``tombola sweep``: curves of methods over sparsities, and grids of settings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from tombola.commands.overrides import overridden
from tombola.errors import UsageError
from tombola.experiments import experiment
from tombola.launch import Order
from tombola.report.curve import measure, table, write_sweep
from tombola.report.rows import rows as rows_of
from tombola.sweep import grid, with_controls
from tombola.terminal import err_console, out_console, print_json, work


def sweep(
    name: str,
    *,
    preset: str | None = None,
    method: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("imp",),
    sparsity: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    seed: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0,),
    set: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    controls: bool = True,
    metric: str | None = None,
    data: str | None = None,
    augment: bool | None = None,
    tune: Annotated[bool, Parameter(negative="")] = False,
    out: Path = Path("sweeps"),
    threads: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
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
        Seeds; intervals are over them.
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
        Threads of one process; all cores by default. Another number may change the last bits.
    json: bool
        Print rows for machines instead of tables.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads must be at least 1: got {threads}")
        torch.set_num_threads(threads)
    chosen = experiment(name)
    preset, defaults = chosen.preset(preset)
    settings = replace(defaults.settings, sparsity=sparsity) if sparsity else defaults.settings
    names = with_controls(method) if controls else list(method)
    source = str(Path(data).expanduser().resolve()) if data and Path(data).expanduser().exists() else data
    augment = defaults.augment if augment is None else augment
    base = Order(chosen, preset, settings, augment, source, tune, names)
    folder = out / f"{name}-{preset}"
    points, loaded = grid(base, folder, set), base.load()
    if "" not in loaded:
        raise UsageError(f"{name} has a network per item: sweep an experiment with one for all its data")
    lines = [line for p in points for line in overridden(p.order.methods, p.order.settings, set)]
    for line in dict.fromkeys(lines):
        err_console.print(line, highlight=False, markup=False, soft_wrap=True)
    for point in points:
        where = [(s, "", point.folder / f"seed{s}") for s in seed]
        work(point.order, loaded, where, f"{point.label}: " if point.values else "")
    found = [(p.values, rows_of([p.folder / f"seed{s}" for s in seed])) for p in points]
    files = write_sweep(folder, f"{name}, preset {preset}", found, method, metric)
    if json:
        print_json([{**({"grid": at} if at else {}), **row} for at, rows in found for row in rows])
    else:
        chosen_metric = measure([row for _, rows in found for row in rows], metric)
        for point, (_, rows) in zip(points, found, strict=True):
            out_console.print(table(rows, chosen_metric, point.label or "Sparsity and quality").rich())
    sys.stderr.write("".join(f"{file}\n" for file in files))
    err_console.print(f"runs: {folder}", highlight=False)
