"""RTL on CIFAR-10 with the paper's hyperparameters, to 75%: the whole from its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.row import Row
from benchmarks.setting import generator
from tombola.data.dataset import Data, Split
from tombola.data.images import crop_and_flip
from tombola.lab.experiments import experiment
from tombola.lab.experiments.cifar10 import NORMALISE
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline, predict
from tombola.pruning.schedules import parse
from tombola.runs.cache import StageCache
from tombola.training.joint import train_jointly
from tombola.training.parallel import settled
from tombola.training.search import find_tickets
from tombola.training.trainer import Problem

SPARSITY, STEPS = 0.75, 4  # of training that are measured, per ticket
TARGET = 60


def end_to_end(full: bool) -> list[Row]:
    """One round of the search and a few steps of training, times their numbers; judging whole.

    On random pictures of CIFAR-10's shape and number, which take as long as real ones.
    """
    if not full:  # a round alone is a minute and a half
        return []
    cifar10 = experiment("cifar10")
    chosen = cifar10.preset("paper")[1].settings
    settings = replace(chosen, sparsity=(SPARSITY,), search=replace(chosen.search, lr=1e-7))
    data, backbone = _data(), cifar10.backbone(generator())
    pipeline = Pipeline(backbone, cifar10.objective, data, cifar10.partition(data), settings, 0, StageCache())
    problem, theta0 = pipeline.problem("own", settings.search), pipeline.theta0
    K, N = len(problem.partition), problem.f.scope.size
    rounds = len(parse(settings.schedule)(N, pipeline.targets("own")))
    dense, way = MaskSet.dense(problem.f.scope, problem.partition.names), settled("auto")
    found: list[MaskSet] = []

    def one_round() -> None:
        found.append(find_tickets(problem, theta0, dense, [N // 2], settings.T, map_tickets=way))

    search = rounds * _seconds(one_round)
    training = settings.steps / STEPS * _seconds(lambda: train_jointly(problem, theta0, found[0], STEPS))
    network = backbone.eval()
    judging = K * sum(_seconds(lambda s=split: predict(network, data, s)) for split in ("validation", "test"))
    parts = f"search {search / 60:.1f}, training {training / 60:.1f}, judging {judging / 60:.1f} minutes"
    counts = f"{rounds} rounds of {K} × {settings.T} steps and {K} × {settings.steps} of training, batch 320"
    against = f"an hour; {parts}: {counts}, from one whole round and {K} × {STEPS} steps"
    minutes = Row("rtl_cifar10_minutes", (search + training + judging) / 60, "min", against, TARGET)
    return [minutes, *_shares(problem, found[0].masks_KN[0])]


def _shares(problem: Problem, mask_N: Tensor) -> list[Row]:
    """Where the time of a step goes: the batch, forward, backward, the optimiser."""
    theta, stream, masks = problem.f.theta0(), problem.stream(0, "benchmark"), [mask_N, None]
    optimizer = problem.config.build(theta.leaves())
    seconds = dict.fromkeys(("data", "forward", "backward", "optimizer"), 0.0)
    made: dict[str, Any] = {}

    def forward() -> Tensor:
        return problem.loss(theta, mask_N, made["data"])

    for i in range(STEPS + 8):
        optimizer.zero_grad()
        parts: dict[str, Callable[[], object]] = {
            "data": lambda i=i: next(problem.draw([(0, stream, i)])),
            "forward": forward,
            "backward": lambda: made["forward"].backward(),
            "optimizer": lambda: optimizer.step([*masks, *[None] * len(theta.private)]),
        }
        for name, part in parts.items():
            start = time.perf_counter()
            made[name] = part()
            seconds[name] += (time.perf_counter() - start) * (i > 1)  # the first two warm up
    whole = sum(seconds.values())
    return [Row(f"step_share_{n}", s / whole, "", "a step of RTL on CIFAR-10") for n, s in seconds.items()]


def _data() -> Data:
    def split(count: int, seed: int) -> Split:
        x = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator(seed))
        return Split(x, torch.arange(count) % 10)

    parts = [split(count, seed) for seed, count in enumerate((45_000, 5_000, 10_000))]
    return Data(*parts, prepare=NORMALISE, augment=crop_and_flip)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
