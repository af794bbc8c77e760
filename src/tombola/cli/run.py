"""``tombola run``: methods of an experiment, compared."""

from __future__ import annotations

from pathlib import Path

from tombola.cli.display import run_and_compare
from tombola.cli.options import Flag, Integers, Numbers, Words, absolute, once, use_threads
from tombola.cli.overrides import overridden
from tombola.cli.terminal import err_console
from tombola.lab.launch import Order
from tombola.training.parallel import Parallel


def run(
    name: str,
    /,
    *,
    preset: str | None = None,
    method: Words = (),
    sparsity: Numbers = (),
    seed: Integers = (0,),
    data: str | None = None,
    item: Words = (),
    augment: bool | None = None,
    set: Words = (),
    tune: Flag = False,
    out: Path = Path("runs"),
    threads: int | None = None,
    parallel: Parallel = "auto",
    device: str = "",
    json: Flag = False,
) -> None:
    """Run methods of an experiment and compare them. What is done already is not done again.

    Example: tombola run digits --method rtl imp --seed 0 1

    Parameters
    ----------
    name: str
        The experiment; `tombola experiments` lists them.
    preset: str
        A named set of settings; `tombola experiments` lists them, the first is the default.
    method: tuple[str, ...]
        Which methods, as `tombola experiments` lists them; by default all but those of the toolbox.
    sparsity: tuple[float, ...]
        Shares of weights removed, such as 0.5 0.9; the preset's by default.
    seed: tuple[int, ...]
        Integers of initialisation, data order and controls; a run directory each.
    data: str
        A folder with the data, or the name of a hub data set; what ships inside a dependency by default.
    item: tuple[str, ...]
        Where every item (a photograph) has a network of its own: which of them; all by default.
    augment: bool
        Random crop and flip; the preset's choice by default.
    set: tuple[str, ...]
        Changes of settings, one or several: T=40 train.lr=0.01; help(tombola.Settings) lists them.
    tune: bool
        Leave the test split alone: judge on one half of validation, choose thresholds on the other.
    out: Path
        Where run directories go: OUT/NAME-PRESET/seedN, or OUT/NAME-PRESET/ITEM/seedN.
    threads: int
        Threads of one process, or workers of one thread; all cores by default. Another number may change the
        last bits.
    parallel: Parallel
        The K trainings of a round: workers (one thread each), no (one after the other, all threads), batched
        (one batch; other last bits). By default as the run began; a new one takes workers on several cores.
    device: str
        Where to compute: cpu, cuda, cuda:1, ... By default where the run began; a new one on the CPU.
    json: bool
        Print rows for machines instead of tables.
    """
    use_threads(threads)
    once("--seed", seed)
    source = data and absolute(data)
    order = Order.of(
        name,
        preset,
        sparsity,
        set,
        augment,
        source=source,
        tune=tune,
        methods=method,
        parallel=parallel,
        device=device,
    )
    for line in overridden(order.methods, order.settings, set):
        err_console.print(line, highlight=False, soft_wrap=True)
    folder, found = out / f"{name}-{order.preset}", order.load()
    where = [(s, i, folder / i / f"seed{s}") for i in item or found for s in seed]
    run_and_compare(order, found, where, json)
