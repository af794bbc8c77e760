"""Transference: what a step on the gradient of one subset does to the loss of another (arXiv 2109.04617).

    Z_ab = 1 − L_b(θ − η g_a) / L_b(θ),   g_a and L_b of different batches,   η so that a step is `STEP` long.

It is affinity with the loss itself in place of its first derivative, and takes K passes for every gradient.
What it tells of the gain of tickets is in docs/results/when.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola.analysis.affinity import BATCHES, POINTS, small_batches, within_an_epoch
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline
from tombola.objectives import Objective
from tombola.runs.cache import StageCache
from tombola.settings import Settings
from tombola.training.joint import train_jointly
from tombola.training.model import Params
from tombola.training.trainer import Problem

STEP = 0.01  # of the length of all weights in scope


def transference(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    points: Sequence[int] = POINTS,
    batches: int = BATCHES,
    seed: int = 0,
    settings: Settings | None = None,
    **changes: Any,
) -> Tensor:
    """The mean of Z over points and pairs of batches, float64 ``[K, K]``; row a is stepped on, b is judged.

    Arguments as in `tombola.affinity`; half of the batches are stepped on, the others judge.

    >>> import tombola as tb
    >>> x, y = torch.randn(400, 8), torch.arange(400) % 2
    >>> data = tb.Data.of(x, (x[:, 0] > 0).long() ^ y, {"camera": y.numpy()})
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> cameras = tb.partition.by_column(data, "camera")
    >>> found = transference(net, tb.objectives.Classification(), data, cameras)
    >>> (found.diagonal() > 0).all().item(), (found[0, 1] < 0).item()
    (True, True)
    """
    settings = replace(settings or Settings(), **changes)
    pipeline = Pipeline(backbone, objective, data, partition, settings, seed, StageCache("no"))
    training = small_batches(pipeline.problem("own", settings.search))
    apart = within_an_epoch(training, batches)
    dense = MaskSet.dense(pipeline.f.scope, partition.names)
    found = []
    for steps in points:
        theta = train_jointly(training, pipeline.theta0, dense, steps, purpose="affinity")
        found += [_lookahead(apart, theta, steps, i) for i in range(0, batches - 1, 2)]
    return torch.stack(found).mean(0)


def relative(transference_KK: Tensor) -> float:
    """How much the steps of others help, over the help of one's own: 1 where subsets agree.

    >>> relative(torch.tensor([[0.2, 0.1], [0.0, 0.2]]))
    0.25
    """
    own = torch.eye(len(transference_KK), dtype=torch.bool)
    return float(transference_KK[~own].mean() / transference_KK[own].mean())


def _lookahead(problem: Problem, theta: Params, steps: int, i: int) -> Tensor:
    """Z of all pairs, by batch i of each subset and batch i + 1 of the other."""
    K, ones_N = len(problem.partition), torch.ones_like(theta.weights_N, dtype=torch.bool)
    streams = [problem.stream(k, "affinity", steps) for k in range(K)]
    stepped, judged = (list(problem.draw((k, streams[k], j) for k in range(K))) for j in (i, i + 1))
    problem.f.train()

    def losses(at: Params) -> Tensor:
        with torch.no_grad():
            return torch.stack([problem.loss(at, ones_N, batch).double().cpu() for batch in judged])

    before_K, rows = losses(theta), []
    for batch in stepped:
        moved = theta.clone()
        problem.gradient(moved, ones_N, batch)
        g = moved.weights_N.grad
        assert g is not None
        moved.weights_N.data -= STEP * theta.weights_N.detach().norm() / g.norm().clamp(min=1e-12) * g
        rows.append(1 - losses(moved) / before_K)
    return torch.stack(rows)
