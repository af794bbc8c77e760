"""One round of K = 10 trainings: at once, over one after the other with all threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import interleave
from benchmarks.row import Row, ratio
from benchmarks.setting import generator, ghostnet
from tombola.data import partition
from tombola.data.dataset import Data
from tombola.lab.models.coordinate_mlp import CoordinateMLP
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.objectives import Objective, OneVsRest, Reconstruction
from tombola.settings import TrainConfig
from tombola.training.model import FunctionalModel
from tombola.training.parallel import Parallel
from tombola.training.search import find_tickets
from tombola.training.trainer import Problem

K, TARGET = 10, 0.83  # 1 / 1.2
Ways = dict[Parallel, tuple[str, float | None]]  # how at once: name and target of the row


def round_k10(full: bool) -> list[Row]:
    """Everything counts: forking the workers, their first step in a new process, scores and masks."""
    repeats = 5 if full else 2
    # On a CPU grouped convolutions are slow: nobody is advised to batch them, so there is no target.
    ghostnet: Ways = {"workers": ("round_k10", TARGET)}
    ghostnet |= {"batched": ("round_k10_ghostnet_batched", None)} if full else {}
    mlp: Ways = {way: (f"round_k10_mlp_{way}", TARGET) for way in ("workers", "batched")}
    return [
        *_rows(_ghostnet(), 6, repeats, ghostnet),
        *_rows(_mlp(), 100, repeats, mlp),
    ]


def _ghostnet() -> Problem:
    x = torch.randn(1280, 3, 32, 32, generator=generator())
    return _problem(ghostnet(), x, torch.arange(1280) % K, OneVsRest(), 64, _channels_last)


def _channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def _mlp() -> Problem:
    """The network of the experiment inr, with its batches."""
    x, y = 2 * torch.rand(10_000, 2, generator=generator()) - 1, torch.rand(10_000, 3, generator=generator(1))
    return _problem(CoordinateMLP(generator=generator()), x, y, Reconstruction(), 256)


def _problem(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    objective: Objective,
    batch: int,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Problem:
    subset = (torch.arange(len(x)) % K).numpy()
    data = Data.of(x, y, {"subset": subset}, **({"prepare": prepare} if prepare else {}))
    subsets = partition.by_column(data, "subset", [str(k) for k in range(K)])
    config = TrainConfig(lr=1e-7, batch_size=batch)  # nothing is learnt: see benchmarks.training
    return Problem(FunctionalModel(net, scope(net)), data, subsets, objective, config, 0)


def _rows(problem: Problem, T: int, repeats: int, ways: Ways) -> list[Row]:
    theta0, dense = problem.f.theta0(), MaskSet.dense(problem.f.scope, problem.partition.names)

    def one_round(way: Parallel, steps: int = T) -> None:
        find_tickets(problem, theta0, dense, [problem.f.scope.size // 2], steps, map_tickets=way)

    sides = {way: partial(one_round, way) for way in ("no", *ways)}
    for way in sides:
        one_round(way, 1)  # a warm-up; a whole round would take as long as what is measured
    times = interleave(sides, repeats, warmup=0)
    batch = problem.config.batch_size
    against = f"one after the other, {torch.get_num_threads()} threads; {T} steps of batch {batch}"
    return [ratio(name, times, way, "no", against, target) for way, (name, target) in ways.items()]
