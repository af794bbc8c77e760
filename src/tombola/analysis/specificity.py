"""Which scores give every subset a mask of its own for a reason: twins beside strangers.

Masks of two subsets differ also because their batches do. A twin is the mask of the same subset from other
batches. Where κ of twins is hardly above κ of different subsets, masks differ by chance, and the mask of
another ticket would do as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tombola._utils.errors import UsageError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import kappa
from tombola.methods.pipeline import Pipeline
from tombola.objectives import Objective
from tombola.pruning import scores
from tombola.pruning.schedules import kept
from tombola.runs.cache import StageCache
from tombola.settings import Settings, settings_of
from tombola.training.joint import train_jointly
from tombola.training.pruning_context import Pruner
from tombola.training.ticket import TicketJob, TicketTrainer


@dataclass(frozen=True)
class Specificity:
    """Mean κ of the masks of twins, and of different subsets; κ is 1 for equal masks, 0 for chance."""

    twins: float
    across: float

    def __str__(self) -> str:
        apart = f"twins {self.twins:.2f}, different subsets {self.across:.2f}"
        return (
            f"Mean kappa of masks: {apart}; overlap {self.overlap:.2f}, 1 where masks differ by chance alone"
        )

    @property
    def difference(self) -> float:
        """How much more a mask is that of its subset than that of any: 0 where masks differ by chance."""
        return self.twins - self.across

    @property
    def overlap(self) -> float:
        """κ of different subsets over that of twins: 1 where masks differ by chance alone."""
        return self.across / self.twins


def specificity(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    score: str,
    *,
    sparsity: float = 0.8,
    steps: int = 20,
    T: int = 0,
    seed: int = 0,
    settings: Settings | None = None,
    **changes: Any,
) -> Specificity:
    """How specific to their subsets masks are that a score cuts in one shot.

    Args:
        backbone: the dense network; it is not changed.
        objective: what tickets are to be trained by.
        data: only its training samples are read.
        partition: the subsets, two or more.
        score: a criterion of `tombola.scoring`, with ``:N`` the batches that it reads.
        sparsity: the share of weights removed.
        steps: per subset, of one dense network for all, where every ticket starts.
        T: further steps of each ticket on its own subset, before it is scored.
        seed: of the order of batches.
        settings: scope, selection, optimiser; ``changes`` are single fields of them.

    Raises:
        UsageError: one subset, or a score that sums over steps and T is 0.

    >>> import tombola as tb
    >>> x, y = torch.randn(400, 8), torch.arange(400) % 2
    >>> data = tb.Data.of(x, (x[:, 0] > 0).long() ^ y, {"camera": y.numpy()})
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> cameras = tb.partition.by_column(data, "camera")
    >>> random = specificity(net, tb.objectives.Classification(), data, cameras, "random", sparsity=0.5)
    >>> abs(random.difference) < 0.3
    True
    """
    if len(partition) < 2:
        raise UsageError("masks of one subset have no others to be compared with")
    criterion = scores.parse(score)
    if criterion.trajectory and not T:
        raise UsageError(f"score {score!r} sums over training steps: T must be at least 1")
    settings = settings_of(settings or Settings(), None, changes)
    pipeline = Pipeline(backbone, objective, data, partition, settings, seed, StageCache("no"))
    scope, problem = pipeline.f.scope, pipeline.problem("own", settings.search)
    dense, keep = MaskSet.dense(scope, partition.names), kept(scope.size, sparsity)
    theta = train_jointly(problem, pipeline.theta0, dense, steps, purpose="affinity")
    pruner = Pruner(criterion, settings.selection, settings.granularity, settings.floor)  # type: ignore[arg-type]
    found = []
    for order in ("", "twin"):
        train = TicketTrainer(replace(problem, order=order), T, pruner)
        jobs = [TicketJob(k, 0, m_k.clone(), theta, keep) for k, m_k in enumerate(dense.masks_KN)]
        found.append(MaskSet(scope, {n: train(job).mask_N for n, job in zip(dense.names, jobs, strict=True)}))
    own, others = torch.eye(len(partition), dtype=torch.bool), kappa(*found)
    return Specificity(float(others[own].mean()), float(others[~own].mean()))
