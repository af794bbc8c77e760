"""``tombola run``: methods of an experiment, compared."""

from __future__ import annotations

from pathlib import Path

from tombola._utils.renamed import renewed_changes
from tombola.cli.display import run_and_compare
from tombola.cli.options import DEFAULTS, Integers, RunOptions, Words, once, say_overridden
from tombola.cli.pretrained_options import PRETRAINED, PretrainedOptions
from tombola.cli.terminal import err_console


def run(
    name: str = "",
    /,
    *,
    method: Words = (),
    seed: Integers = (0,),
    item: Words = (),
    set: Words = (),
    out: Path = Path("runs"),
    options: RunOptions = DEFAULTS,
    pretrained: PretrainedOptions = PRETRAINED,
) -> None:
    """Run methods of an experiment and compare them. What is done already is not done again.

    Example: tombola run digits --method rtl imp --seed 0 1

    Or of a pretrained network: tombola run --model FOLDER --data table.csv --text review --target label
    --subset shop. Every ticket is a change of that network, with an output layer of its own; embeddings are
    frozen.

    Parameters
    ----------
    name: str
        The experiment; `tombola experiments` lists them. MODULE:NAME is one of your own. With --model, what
        the runs are to be called; by default as the table.
    method: tuple[str, ...]
        Which methods, as `tombola experiments` lists them; by default all but those of the toolbox;
        with --model rtl, imp and same_mask.
    seed: tuple[int, ...]
        Integers of initialisation, data order and controls; a run directory each.
    item: tuple[str, ...]
        Where every item (a photograph) has a network of its own: which of them; all by default.
    set: tuple[str, ...]
        Changes of settings, one or several: T=40 train.lr=0.01; help(tombola.Settings) lists them.
    out: Path
        Where run directories go: OUT/NAME-PRESET/seedN, or OUT/NAME-PRESET/ITEM/seedN.
    """
    once("--seed", seed)
    changes = renewed_changes(set)
    order = options.order(pretrained.experiment(name, options.data), method, changes)
    say_overridden([order], changes)
    if pretrained.model:
        err_console.print(pretrained.said(), highlight=False, soft_wrap=True)
    folder, found = out / f"{order.experiment.name.replace(':', '.')}-{order.preset}", order.load()
    where = [(s, i, folder / i / f"seed{s}") for i in item or found for s in seed]
    run_and_compare(order, found, where, options.json, options.brief)
