"""``tombola discover``: which subsets of an experiment deserve a ticket, by what their gradients agree on."""

from __future__ import annotations

from torch import Tensor

from tombola._utils.device import parse
from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.analysis.discover import discover as discovered
from tombola.cli.options import DEFAULTS, Flag, RunOptions
from tombola.cli.terminal import busy, out_console, show
from tombola.data.dataset import Split
from tombola.data.partition import Partition
from tombola.lab.report.tables import Table


def discover(
    name: str,
    /,
    *,
    k: int | None = None,
    most: float = 1.0,
    split: Flag = False,
    seed: int = 0,
    options: RunOptions = DEFAULTS,
) -> None:
    """Find subsets: those of an experiment are merged while their gradients agree.

    Example: tombola discover tenants_agree

    Parameters
    ----------
    name: str
        The experiment; `tombola experiments` lists them. MODULE:NAME is one of your own.
    k: int
        How many subsets; by default as many as do not agree.
    most: float
        The largest share of the training samples that a subset may have.
    split: bool
        Forget the experiment's subsets: begin with one group of all samples, and split it by its inputs.
    seed: int
        Of initial weights and order of data.
    """
    order = options.order(name, ())
    for item, data in order.load().items():
        backbone = order.experiment.backbone(generator(seed, "theta0")).to(parse(options.device or "cpu"))
        fine = order.experiment.partition(data)
        with busy(f"subsets of {item or name}"):
            found = discovered(
                backbone,
                order.experiment.objective,
                data,
                None if split else fine,
                features=_inputs if split else None,
                K=k,
                most=most,
                seed=seed,
                settings=order.settings,
            )
        sizes = found.sizes()
        rows = [{"item": item, "subset": subset, "samples": size} for subset, size in sizes.items()]
        body = [[subset, f"{size:,}"] for subset, size in sizes.items()]
        show([Table(item or name, ["subset", "training samples"], body)], rows, options.json)
        if not options.json:
            out_console.print(f"\nNext: {_next(name, fine, found, split)}", highlight=False, soft_wrap=True)


def _inputs(split: Split) -> Tensor:
    if not isinstance(split.x, Tensor):
        raise UsageError("inputs of several parts have no distances: call tombola.discover with features=")
    return split.x.flatten(1).float()


def _next(name: str, fine: Partition, found: Partition, split: bool) -> str:
    """What to do with these subsets."""
    if len(found) == 1:
        return f"tombola run {name} --method imp   (all agree: one mask)"
    if split:
        return "tb.discover(..., features=...) gives this partition to tb.rtl (docs/advise.md)"
    if found.names == fine.names:
        return f"tombola advise {name}   (none agree)"
    train = fine.members["train"], found.members["train"]
    numbers = {
        subset: [k for k, group_S in enumerate(train[0].unbind(1)) if bool((group_S <= whole_S).all())]
        for subset, whole_S in zip(found.names, train[1].unbind(1), strict=True)
    }
    return f"tb.rtl(..., partition.merged({numbers}))"
