"""Transference: what a step on the gradient of one subset does to the loss of another (arXiv 2109.04617).

    Z_ab = 1 − L_b(θ − η g_a) / L_b(θ),   g_a and L_b of different batches.

It is affinity with the loss itself in place of its first derivative, takes K passes for every gradient, and
tells the gain of tickets worse (docs/results/when.md), so that no advice is made of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.analysis.affinity import BATCHES, POINTS, small_batches, within_an_epoch
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline
from tombola.training.joint import train_jointly
from tombola.training.model import Params
from tombola.training.trainer import Problem, TicketBatch

STEP = 0.01  # of the length of all weights, at the start; later steps are shorter, as gradients are


def transference(pipeline: Pipeline) -> float:
    """How much the steps of other subsets help, over the help of one's own: 1 where subsets agree.

    Points and batches are those of `tombola.affinity`; half of the batches are stepped on, the others judge.
    """
    training = small_batches(pipeline.problem("own", pipeline.settings.search))
    apart, theta0 = within_an_epoch(training, BATCHES), pipeline.theta0
    dense = MaskSet.dense(pipeline.f.scope, pipeline.partition.names)
    found, eta = [], _rate(apart, theta0)
    for steps in POINTS:
        theta = train_jointly(training, theta0, dense, steps, purpose="affinity")
        found += [_lookahead(apart, theta, eta, steps, i) for i in range(0, BATCHES - 1, 2)]
    mean_KK, own = torch.stack(found).mean(0), torch.eye(len(dense), dtype=torch.bool)
    return float(mean_KK[~own].mean() / mean_KK[own].mean())


def _rate(problem: Problem, theta0: Params) -> float:
    """η, from one batch of each subset at the initial weights."""
    problem.f.train()
    turns = [(k, problem.stream(k, "affinity", "rate"), 0) for k in range(len(problem.partition))]
    norms = [float(_gradient(problem, theta0, batch).norm()) for batch in problem.draw(turns)]
    return STEP * float(theta0.weights_N.detach().norm()) * len(norms) / max(sum(norms), 1e-12)


def _gradient(problem: Problem, theta: Params, batch: TicketBatch) -> Tensor:
    at = theta.clone()
    problem.gradient(at, torch.ones_like(at.weights_N, dtype=torch.bool), batch)
    assert at.weights_N.grad is not None
    return at.weights_N.grad


def _lookahead(problem: Problem, theta: Params, eta: float, steps: int, i: int) -> Tensor:
    """Z ``[K, K]``: batch i of subset a is stepped on, batch i + 1 of b is judged."""
    K, ones_N = len(problem.partition), torch.ones_like(theta.weights_N, dtype=torch.bool)
    streams = [problem.stream(k, "affinity", steps) for k in range(K)]
    stepped, judged = (list(problem.draw((k, streams[k], j) for k in range(K))) for j in (i, i + 1))
    problem.f.train()

    @torch.no_grad()
    def losses(at: Params) -> Tensor:
        return torch.stack([problem.loss(at, ones_N, batch).double().cpu() for batch in judged])

    before_K, rows = losses(theta), []
    for batch in stepped:
        moved = theta.clone()
        moved.weights_N.data -= eta * _gradient(problem, theta, batch)
        rows.append(1 - losses(moved) / before_K)
    return torch.stack(rows)
