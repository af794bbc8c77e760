"""The short way: tickets from a backbone, an objective, data and a partition in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from torch import nn

from tombola.data import Data
from tombola.journal import Journal
from tombola.objectives import Objective
from tombola.outcome import Outcome, carry_out, levels
from tombola.partition import Partition
from tombola.pipeline import Pipeline
from tombola.runs import Run
from tombola.settings import Settings
from tombola.tickets import TicketModel


def find(
    method: str,
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    sparsity: float | Sequence[float] = 0.75,
    settings: Settings | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    **changes: Any,
) -> list[Outcome]:
    """Any method of `tombola.methods`: one outcome per sparsity, lowest first.

    Args:
        method: ``rtl``, ``imp``, ``imp_per_subset``, ``dense`` or a control.
        backbone: the dense network; what it holds is theta0. It is not changed.
        objective: what tickets are trained and judged by.
        data: train, validation and test.
        partition: the subsets, one per ticket.
        sparsity: share of weights removed; several share one nested search.
        settings: everything else (`Settings`); ``changes`` are single fields of it.
        seed: of data order and controls; the backbone brings its own initialisation.
        out: a directory to keep the run in; interrupted, the same call goes on where it was.
    """
    wanted = (sparsity,) if isinstance(sparsity, int | float) else tuple(sparsity)
    settings = replace(settings or Settings(), sparsity=wanted, **changes)
    pipeline = Pipeline(backbone, objective, data, partition, settings, seed, Journal())
    if out is None:
        return [carry_out(pipeline, method, level) for level in levels(pipeline, method)]
    config = {"experiment": None, "seed": seed, "settings": settings.plain(), **pipeline.hashes}
    with Run(out, {**config, "methods": [method]}) as run:
        pipeline.journal = run
        return [carry_out(pipeline, method, level) for level in levels(pipeline, method)]


@overload
def rtl(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    sparsity: float = ...,
    **options: Any,
) -> TicketModel: ...
@overload
def rtl(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    sparsity: Sequence[float],
    **options: Any,
) -> dict[float, TicketModel]: ...
def rtl(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    sparsity: float | Sequence[float] = 0.75,
    **options: Any,
) -> TicketModel | dict[float, TicketModel]:
    """Routing the Lottery (arXiv 2601.22141): adaptive tickets, retrained together on shared weights.

    Arguments as in `find`. A number gives one `TicketModel`; several give one per sparsity.

    >>> import torch, tombola as tb
    >>> x, y = torch.rand(200, 8), torch.arange(200) % 2
    >>> data = tb.Data.of(x, y)
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> partition = tb.partition.by_label(data, names=["even", "odd"])
    >>> tickets = tb.rtl(net, tb.objectives.OneVsRest(), data, partition, sparsity=0.5, T=2, steps=2)
    >>> tickets.masks.counts
    {'even': 64, 'odd': 64}
    """
    outcomes = find("rtl", backbone, objective, data, partition, sparsity=sparsity, **options)
    if isinstance(sparsity, int | float):
        return outcomes[0].models[0]
    return {outcome.sparsity: outcome.models[0] for outcome in outcomes}
