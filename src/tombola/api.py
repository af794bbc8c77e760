"""The short way: tickets from a backbone, an objective, data and a partition in one call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, overload

from torch import nn

from tombola._utils.errors import UsageError, warn
from tombola._utils.renamed import renewed
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.prunable import left_out
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import Outcome, run_method, sparsities_of
from tombola.methods.table import check_loop_is_used
from tombola.objectives import Objective
from tombola.runs.cache import StageCache, opened
from tombola.runs.directory import Run
from tombola.runs.progress import progress_bar
from tombola.settings import Settings, settings_of
from tombola.tickets.model import TicketModel
from tombola.training.loop import TrainLoop, check_loop, identity
from tombola.training.parallel import OVER_RANKS, Parallel, settled


def find(
    method: str,
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    sparsity: float | Sequence[float] | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    parallel: Parallel = "auto",
    train_loop: TrainLoop | None = None,
    progress: bool | None = None,
    **changes: Any,
) -> list[Outcome]:
    """Any method of `tombola.methods.table`: one outcome per sparsity, lowest first.

    Args:
        method: a name from `tombola.methods.METHODS`: ``rtl``, ``imp``, ``dense``, a classic or a control.
        backbone: the dense network; what it holds is theta0. It is not changed.
        objective: what tickets are trained and judged by.
        data: train, validation and test.
        partition: the subsets, one per ticket.
        sparsity: share of weights removed; several share one nested search. By default that of the
            settings, or 0.75 without settings.
        settings: everything else (`Settings`); ``changes`` are single fields of it.
        seed: of data order and controls; the backbone brings its own initialisation.
        out: a directory to keep the run in; interrupted, the same call goes on where it was.
        parallel: how the K trainings of a round go: ``no`` (one after the other), ``workers`` (each with one
            thread, in processes), ``batched`` (as one batch; other last bits), ``ranks`` (shared out over the
            processes of a process group, the default inside one), ``joint_ranks`` (joint training too). By
            default workers where there are several cores (`tombola.training.parallel.choose`).
        train_loop: trains a ticket in a round of the search, in place of Tombola's own loop:
            ``train_loop(net, optimizer, batches, ticket)`` calls backward and step itself and returns its
            mean loss (`tombola.training.loop`). The steps to the rewind point and Algorithm 2 are as ever.
        progress: whether to show how far it is; by default on a terminal and in a notebook
            (`tombola.runs.progress`).

    Raises:
        UsageError: an argument of the wrong kind, a setting that does not exist, or a loop without a use.
    """
    if "at_once" in changes and parallel != "auto":
        raise UsageError("at_once is now called parallel: give parallel alone")
    changes = renewed(changes)
    parallel = changes.pop("parallel", parallel)  # under its former name
    settings = settings_of(settings, sparsity, changes)
    if not isinstance(out, str | PathLike | None):
        raise UsageError(f"out is the path of a directory, or None: got {type(out).__name__}")
    cache = StageCache(settled(parallel))
    if train_loop is not None:
        check_loop(train_loop, settings.search, cache.parallel)
        check_loop_is_used(method, settings)
    pipeline = Pipeline(backbone, objective, data, partition, settings, seed, cache, train_loop=train_loop)
    head = pipeline.head.weight if pipeline.head else None
    if not settings.include and (words := left_out(pipeline.f.module, pipeline.f.scope, head=head)):
        warn(words)
    for words in objective.doubts(data, partition):
        warn(words)
    with ExitStack() as stack:
        if out is not None or cache.parallel in OVER_RANKS:
            asked: dict[str, Any] = {"experiment": None, "seed": seed, "settings": settings.plain()}
            asked |= pipeline.origin
            if train_loop is not None:
                asked["train_loop"] = identity(train_loop)
            asked["methods"], device = [method], str(pipeline.f.device)

            def make() -> StageCache:
                return cache if out is None else Run(out, asked, parallel=parallel, device=device)

            pipeline.cache = stack.enter_context(opened(make, asked, parallel))
            for words in pipeline.cache.notes:
                warn(words)
        wanted = progress if pipeline.cache.leads else False
        if (bar := stack.enter_context(progress_bar(method, wanted))) is not None:
            pipeline.cache.listen(bar.on_progress, bar.on_record)
        return [run_method(pipeline, method, sparsity) for sparsity in sparsities_of(pipeline, method)]


@overload
def rtl(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    sparsity: float | None = ...,
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
    sparsity: float | Sequence[float] | None = None,
    **options: Any,
) -> TicketModel | dict[float, TicketModel]:
    """Routing the Lottery (arXiv 2601.22141): adaptive tickets, retrained together on shared weights.

    Arguments as in `find`. One sparsity gives one `TicketModel`; a sequence gives one per sparsity.

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
    if len(outcomes) == 1 and not isinstance(sparsity, Sequence):
        return outcomes[0].models[0]
    return {outcome.sparsity: outcome.models[0] for outcome in outcomes}
