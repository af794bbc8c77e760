"""``tombola run``: methods of an experiment, compared."""

from __future__ import annotations

from pathlib import Path

from tombola._utils.renamed import renewed_changes
from tombola.cli.display import run_and_compare
from tombola.cli.jobs import ONE, JobOptions
from tombola.cli.options import DEFAULTS, Flag, Integers, RunOptions, Words, once, say_overridden
from tombola.cli.pretrained_options import PRETRAINED, PretrainedOptions
from tombola.cli.terminal import say_aside
from tombola.lab.jobs import Task


def run(
    name: str = "",
    /,
    *,
    method: Words = (),
    seed: Integers = (0,),
    item: Words = (),
    set: Words = (),
    out: Path = Path("runs"),
    brief: Flag = False,
    options: RunOptions = DEFAULTS,
    at_once: JobOptions = ONE,
    pretrained: PretrainedOptions = PRETRAINED,
) -> None:
    """Run methods of an experiment and compare them. What is done already is not done again.

    Example: tombola run digits --method rtl imp --seed 0 1

    Several seeds or items at once, each in a process of its own: tombola run digits --seed 0 1 2 --jobs 3

    Or of a pretrained network: tombola run --model FOLDER --data table.csv --text review --target label
    --subset shop. Every ticket is a change of that network, with an output layer of its own; embeddings are
    frozen.

    Args:
        name: The experiment; `tombola experiments` lists them. MODULE:NAME is one of your own. With --model,
            what the runs are to be called; by default as the table.
        method: Which methods, as `tombola experiments` lists them; by default all but those of the toolbox;
            with --model rtl, imp and same_mask.
        seed: Integers of initialisation, data order and controls; a run directory each.
        item: Where every item (a photograph) has a network of its own: which of them; all by default.
        set: Changes of settings, one or several: T=40 train.lr=0.01; help(tombola.Settings) lists them.
        out: Where run directories go: OUT/NAME-PRESET/seedN, or OUT/NAME-PRESET/ITEM/seedN.
        brief: Print the answer in words alone; `tombola compare` and `tombola report` have the tables.
    """
    once("--seed", seed)
    changes = renewed_changes(set)
    order = options.order(pretrained.experiment(name, options.data), method, changes)
    say_overridden([order], changes)
    if pretrained.model:
        say_aside(pretrained.said())
    folder, found = order.folder(out), order.load()
    tasks = [Task.of(order, folder / i, s, i) for i in item or found for s in seed]
    place = at_once.place(options.threads, options.device)
    run_and_compare(tasks, found, options.json, brief, place)
