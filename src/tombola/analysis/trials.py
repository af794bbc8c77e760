"""Short runs of the ways to serve several contexts, on training and validation data alone.

Successive halving (Jamieson and Talwalkar, arXiv 1502.07943) in two rungs: all arms a little with one seed,
then the better half for longer and with more; last, the arm that is chosen at the other sparsities. Every
arm has the same samples as the others of its rung.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.errors import PartitionError, RunError, UsageError
from tombola._utils.statistics import interval
from tombola.analysis.affinity import BATCHES, POINTS, Affinity, measured, small_batches
from tombola.analysis.plan import Pace, planned
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import Outcome, run_method
from tombola.objectives import Metric
from tombola.objectives.metrics import metric_info
from tombola.runs.cache import StageCache
from tombola.runs.directory import Run
from tombola.runs.progress import Listener
from tombola.settings import Settings
from tombola.training.model import one_device
from tombola.training.parallel import OVER_RANKS, Parallel, settled, world
from tombola.training.trainer import Problem

# From the one that stores least to the one that stores most: where two are alike, the earlier is enough.
ARMS = {
    "imp": "one mask",
    "imp_context": "one mask, told the context",
    "same_mask": "one mask, private parts for each context",
    "rtl": "tickets",
    "imp_per_subset": "a network for each context",
}
UNITS = 8  # differences that an interval is made of, at least: a seed has one of each context
AGREE, DISAGREE = 0.6, 0.45  # bounds of affinity above and below which tickets were never, and often, ahead
SEEDS, MOST = 3, 5  # of the second rung: that are planned, and where there is time
AFFINITY, FIRST = 0.2, 0.15  # shares of the time; the rungs after them share what is left


@dataclass(frozen=True)
class Arm:
    """What one arm reached at one sparsity.

    Attributes:
        method: what was run.
        sparsity: share of weights removed.
        metric: what comparisons are decided by.
        values: it, on validation data, by seed and subset (or by seed alone).
        per_ticket: numbers in scope that one answer is computed of.
        stored: numbers in all; a mask takes a bit of a number of 32.
    """

    method: str
    sparsity: float
    metric: str
    values: Mapping[tuple[int, str], float]
    per_ticket: float
    stored: float

    @property
    def mean(self) -> float:
        """The mean over seeds and subsets."""
        return float(np.mean(list(self.values.values())))

    def ahead(self, other: Arm, level: float = 0.95) -> tuple[float, float]:
        """By how much it is the better one, within seeds and subsets, and half the interval of that."""
        better = metric_info(self.metric).ahead
        each = [better(value, other.values[unit]) for unit, value in self.values.items()]
        half = interval(each, level)
        return float(np.mean(each)), math.inf if half is None else half


@dataclass
class Trials:
    """The runs that an advice is made of; each is done once, in a folder if there is one.

    Args:
        pipeline: backbone, objective, data without their test split, partition, settings, first seed.
        minutes: the budget.
        out: a folder to keep runs in; the same trials go on there.
        parallel: how tickets are run.
        listener: what is told how far it is.
        timer: the clock.
    """

    pipeline: Pipeline
    minutes: float
    out: Path | None = None
    parallel: Parallel = "auto"
    listener: Listener | None = None
    closed: dict[str, str] = field(init=False, default_factory=dict)  # arms that cannot be run, and why
    information: float | None = field(init=False, default=None)  # known after the first rung
    share: float = field(init=False, default=1.0)  # of the steps in the second rung, known after it
    timer: Callable[[], float] = time.perf_counter
    _memory: dict[tuple[str, int], StageCache] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if world() is not None and self.parallel in ("auto", *OVER_RANKS):
            # What is tried depends on the clock, which would lead ranks apart.
            self.parallel = settled("auto", over_ranks=False)
        p, self._began = self.pipeline, self.timer()
        self._pace = Pace(p)
        if not p.f.private.size:
            self.closed["same_mask"] = "no part of the network is private to a ticket"
        try:
            _ = p.with_context
        except (UsageError, PartitionError) as error:
            self.closed["imp_context"] = str(error)

    @property
    def arms(self) -> list[str]:
        """Methods that can be run."""
        return [name for name in ARMS if name not in self.closed]

    @property
    def seeds(self) -> int:
        """Seeds of the second rung that are planned: few contexts need several, and long runs tell more."""
        return min(SEEDS, -(-UNITS // len(self.pipeline.partition)))

    @property
    def left(self) -> float:
        """Seconds of the budget that are left, or next to none of them."""
        return max(self.minutes * 60 - (self.timer() - self._began), 0.02 * self.minutes * 60)

    def going(self, first: Sequence[Arm], affinity: Affinity) -> list[str]:
        """The arms that go on: the better half, and tickets where contexts disagree.

        Little training favours what shares most, so tickets are not left out for their first steps alone.
        Where contexts agree and being told them does not lower the loss, one mask goes on in its place.
        """
        ranked = sorted(first, key=lambda arm: -metric_info(arm.metric).ahead(arm.mean, 0.0))
        names = {arm.method for arm in ranked[: (len(ranked) + 1) // 2]}
        low, high = affinity.interval()
        if high < DISAGREE:
            names.add("rtl")
        if low > AGREE and self.information is not None and self.information <= 0:
            names = names - {"imp_context"} | {"imp"}
        return [name for name in ARMS if name in names]

    def affinity(self) -> Affinity:
        """The affinity of the subsets, with the seed that comes first."""
        p = self.pipeline

        def compute(_: Checkpoint) -> State:
            problem = p.problem("own", p.settings.search)
            found = measured(problem, p.theta0, self._points(small_batches(problem)))
            return {"gram": found.gram_PLRR}, {"points": found.points, "samples": found.samples}

        tensors, facts = self._once("affinity", compute)
        points, samples = tuple(facts["points"]), facts["samples"]
        found = Affinity(p.partition.names, p.f.scope.names, points, tensors["gram"], samples)
        if (low := found.interval()[0]) > AGREE:
            why = f"the contexts agree: affinity is above {low:.2f}"
            self.closed |= {"rtl": why, "imp_per_subset": why}
        return found

    def first(self, sparsity: float) -> tuple[list[Arm], float]:
        """All arms with one seed, at one sparsity; and the seconds that one would take in full."""
        whole = self._whole(sparsity)
        units = len(self.arms) + ("imp_context" in self.arms)  # and two dense networks, without a search
        share = self._share("first", FIRST * self.minutes * 60 / (whole * units))
        settings, began = self._scaled(share, sparsity), self.timer()
        arms = _arms([self._rung("first", self.arms, settings)], self.pipeline.seed)
        if "imp_context" in self.arms:
            with self._cache("first", settings, self.pipeline.seed) as cache:
                self.information = information(replace(self.pipeline, settings=settings, cache=cache))
        return arms, self._took("first", self.timer() - began) / (share * units)

    def second(self, names: Sequence[str], sparsity: float, whole: float) -> tuple[list[Arm], float]:
        """These arms with several seeds, at one sparsity; and the seconds that one would take in full.

        What is left is shared with `third`. The first rung judges as much as this one does, so that an arm
        takes less than it says: seeds are added while there is time, and left out where there is none.
        """
        others = len(self.pipeline.settings.sparsity)
        more = others / len(names) if others > 1 else 0.0  # of the time of a seed, for the third
        self.share = self._share("second", self.left / (whole * len(names) * (self.seeds + more)))
        settings, began, found = self._scaled(self.share, sparsity), self.timer(), []
        for seed in range(MOST):
            each = (self.timer() - began) / max(seed, 1)
            if seed and not self._goes_on(seed, self.left - each * (1 + more)):
                break
            found.append(self._rung("second", names, settings, seed))
        seconds = self._took("second", self.timer() - began)
        return _arms(found, self.pipeline.seed), seconds / (len(found) * len(names) * self.share)

    def third(self, name: str, whole: float) -> list[Arm]:
        """One arm at all sparsities, with one seed, in the time that is left."""
        sparsities = self.pipeline.settings.sparsity
        share = self._share("third", self.left / (whole * len(sparsities)))
        return _arms([self._rung("third", [name], self._scaled(share, *sparsities))], self.pipeline.seed)

    def _points(self, problem: Problem) -> Sequence[int]:
        """The points at which gradients are taken: as many as a fifth of the time allows."""
        step, K = self._pace.step(problem.config.batch_size), len(problem.partition)
        for points in (POINTS, POINTS[:2]):
            if step * K * (sum(points) + BATCHES * len(points)) <= AFFINITY * self.minutes * 60:
                return points
        return POINTS[:1]

    def _whole(self, sparsity: float) -> float:
        """Seconds of one arm in full."""
        one = replace(self.pipeline, settings=replace(self.pipeline.settings, sparsity=(sparsity,)))
        return planned(one, ["rtl"]).steps * self._pace.step()

    def _share(self, rung: str, most: float) -> float:
        """The share of the settings' steps that a rung makes: as it began, or what there is time for."""

        def compute(_: Checkpoint) -> State:
            return {}, {"share": min(1.0, most), "minutes": self.minutes}

        facts = self._once(f"{rung} rung", compute)[1]
        if facts["minutes"] != self.minutes:
            raise RunError(
                f"{self.out} was begun with {facts['minutes']:g} minutes: ask for as many, or take another "
                "folder"
            )
        return float(facts["share"])

    def _goes_on(self, seed: int, spare: float) -> bool:
        """Whether the second rung takes one more seed: as it was decided before, or by what would be left."""
        return bool(self._once(f"second seed {seed}", lambda _: ({}, {"more": spare >= 0}))[1]["more"])

    def _took(self, rung: str, seconds: float) -> float:
        """The seconds that a rung took when it was run."""
        return float(self._once(f"{rung} seconds", lambda _: ({}, {"seconds": seconds}))[1]["seconds"])

    def _once(self, stage: str, compute: Callable[[Checkpoint], State]) -> State:
        with self._cache("", self.pipeline.settings, self.pipeline.seed) as cache:
            return cache.get_or_compute(stage, compute)

    def _scaled(self, share: float, *sparsity: float) -> Settings:
        """The settings with so much of their steps, at these sparsities."""
        s = self.pipeline.settings
        T, steps, rewind = (max(1, round(share * n)) if n else 0 for n in (s.T, s.steps, s.rewind))
        return replace(s, T=T, steps=steps, rewind=rewind, sparsity=sparsity)

    def _rung(self, place: str, names: Sequence[str], settings: Settings, seed: int = 0) -> list[Outcome]:
        """What these methods reach at all sparsities of the settings, with one of the seeds."""
        seed += self.pipeline.seed
        with self._cache(place, settings, seed, names) as cache:
            pipeline = replace(self.pipeline, settings=settings, seed=seed, cache=cache)
            return [run_method(pipeline, name, each) for name in names for each in sorted(settings.sparsity)]

    @contextmanager
    def _cache(
        self, place: str, settings: Settings, seed: int, names: Sequence[str] = ()
    ) -> Iterator[StageCache]:
        with ExitStack() as stack:
            cache = self._memory.setdefault((place, seed), StageCache(settled(self.parallel)))
            if self.out is not None:
                config: dict[str, Any] = {"experiment": None, "seed": seed, "settings": settings.plain()}
                config |= {"advice": True, **self.pipeline.origin, "methods": [*names]}
                path, device = self.out / place / f"seed{seed}", str(one_device(self.pipeline.backbone))
                cache = stack.enter_context(Run(path, config, parallel=self.parallel, device=device))
            if self.listener is not None:
                cache.progress, cache.on_record = self.listener.on_progress, self.listener.on_record
            yield cache


def _arms(by_seed: Sequence[Sequence[Outcome]], first: int) -> list[Arm]:
    """Arms from their outcomes, which every seed has in the same order."""
    return [_arm(outcomes, first) for outcomes in zip(*by_seed, strict=True)]


def _arm(outcomes: Sequence[Outcome], first: int) -> Arm:
    """One arm from its outcomes, a seed each."""
    values: dict[tuple[int, str], float] = {}
    for seed, outcome in enumerate(outcomes, first):
        of = headline(outcome.metrics)
        mine = {m.ticket: m.value for m in outcome.metrics if (m.name, m.reading) == of}
        each = {ticket: value for ticket, value in mine.items() if ticket} or mine
        values |= {(seed, ticket): value for ticket, value in each.items()}
    last = outcomes[-1]
    stored = sum(last[name] for name in ("union", "private", "dense_rest")) + last["mask_bytes"] / 4
    return Arm(last.method, last.sparsity, headline(last.metrics)[0], values, last["per_ticket"], stored)


def headline(metrics: Sequence[Metric]) -> tuple[str, str]:
    """Name and reading of the metric that comparisons are decided by."""
    ours = [m for m in metrics if not m.ticket]
    decide = [m for m in ours if m.reading in metric_info(m.name).headline]
    fair = [m for m in decide if m.reading != "paper" and metric_info(m.name).primary] or decide
    if not fair:
        raise UsageError(
            "no metric of the objective says which network is better: give one a headline "
            "(tombola.objectives.register_metric)"
        )
    return fair[0].name, fair[0].reading


def information(pipeline: Pipeline) -> float | None:
    """What the context says about the answer beyond the input, ``I(Y; C | X)`` in units of the loss.

    The loss on validation data of one dense network, trained as the settings say, minus that of the same
    network told the context; None where it cannot be told.
    """
    try:
        told = pipeline.with_context
    except (UsageError, PartitionError):
        return None
    one = held_out_loss(pipeline, run_method(pipeline, "dense", 0.0))
    return one - held_out_loss(told, run_method(pipeline, "dense_context", 0.0))


@torch.no_grad()
def held_out_loss(pipeline: Pipeline, outcome: Outcome) -> float:
    """The loss of one network for all on validation data, every subset counted alike."""
    partition, data = pipeline.partition, pipeline.data
    objective = pipeline.objective.single(partition).of(data, partition.whole())
    held = replace(data, train=data.validation)  # objectives give targets of training samples
    network, losses = outcome.tickets.bake(outcome.tickets.names[0]).eval(), []
    for members_S in partition.members["validation"].unbind(1):
        found, index = [], members_S.nonzero()[:, 0]
        batches = index.split(500)
        inputs = data.batches("validation", batches, pipeline.f.device)
        for x, numbers in zip(inputs, batches, strict=True):
            y = objective.targets(held, partition.whole(), numbers, 0).to(pipeline.f.device)
            found.append(float(objective.loss_of(network, x, y, 0)) * len(numbers))
        losses.append(sum(found) / len(index))
    return sum(losses) / len(losses)
