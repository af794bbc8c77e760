"""``tombola discover``: which subsets of an experiment deserve a ticket, by what their gradients agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tombola._utils.device import parse
from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.analysis.discover import Discovery, Pair, discovery
from tombola.cli.options import DEFAULTS, Flag, RunOptions
from tombola.cli.terminal import busy, out_console, print_json, show
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

    Beside each stand the least affinity of two groups in it, and the greatest to another subset. Groups are
    merged from the bound on: an affinity of 0.5, or what noise alone keeps from 1.

    Example: tombola discover tenants_agree

    Args:
        name: The experiment; `tombola experiments` lists them. MODULE:NAME is one of your own.
        k: How many subsets; by default as many as do not agree.
        most: The largest share of the training samples that a subset may have.
        split: Forget the experiment's subsets: begin with one group of all samples, and split it by its
            inputs.
        seed: Of initial weights and order of data.
    """
    order, every = options.order(name, ()), list[dict[str, Any]]()
    for item, data in order.load().items():
        backbone = order.experiment.backbone(generator(seed, "theta0")).to(parse(options.device or "cpu"))
        fine = order.experiment.partition(data)
        with busy(f"subsets of {item or name}"):
            found = discovery(
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
        rows = _rows(item, found)
        every += rows
        if not options.json:
            show([_table(item or name, rows)], rows, as_json=False)
            asked = f"K={k} was asked for" if k is not None else f"most={most:g} was asked for" * (most < 1)
            out_console.print(_BOUND.format(found.enough) + (f"; {asked}" if asked else ""), soft_wrap=True)
            then = _next(name, fine, found.partition, split)
            out_console.print(f"\nNext: {then}", highlight=False, soft_wrap=True)
    if options.json:
        print_json(every)


_BOUND = (
    "Groups are merged from the bound on: {:g}, or less where that is as near to 1 as noise lets twins come"
)


def _rows(item: str, found: Discovery) -> list[dict[str, Any]]:
    """Each subset, its least affinity within and its greatest to another, and their bounds."""
    return [
        {"item": item, "subset": subset, "samples": size}
        | _of("least_within", found.within(j))
        | _of("greatest_to_other", found.nearest(j))
        for j, (subset, size) in enumerate(found.partition.sizes().items())
    ]


def _of(what: str, pair: Pair | None) -> dict[str, Any]:
    if pair is None:
        return {what: None, f"{what}_pair": None, f"{what}_bound": None}
    return {what: pair.affinity, f"{what}_pair": list(pair.names), f"{what}_bound": pair.bound}


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Affinities in words: with which groups, and beside the bound."""
    body = []
    for row in rows:
        cells = [row["subset"], f"{row['samples']:,}"]
        for what, names in (
            ("least_within", lambda pair: " and ".join(pair)),
            ("greatest_to_other", lambda pair: f"to {_short(pair[1])}"),
        ):
            known = row[what] is not None
            cells.append(f"{row[what]:.2f} {names(row[f'{what}_pair'])}" if known else "none")
            cells.append(f"{row[f'{what}_bound']:.2f}" if known else "")
        body.append(cells)
    header = ["subset", "training samples", "least affinity within", "bound", "greatest to another", "bound"]
    return Table(title, header, body)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


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
