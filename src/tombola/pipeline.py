"""From a backbone, data and a partition to tickets: the parts of every method, each done once.

A method (`tombola.methods`) says which masks, which objective and whether weights are shared. The
pipeline turns that into stages: the rewind point, the search (Algorithm 1), the training
(Algorithm 2), and the tickets with their norm statistics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tombola import normalization, rewinding, storage
from tombola.analysis.collapse import FALSE_ALARMS, stated_rate
from tombola.checks import check_fit, check_kinds
from tombola.data import SPLITS, Data
from tombola.errors import NotReached
from tombola.function import Function, Theta
from tombola.guard import Guard
from tombola.journal import Journal
from tombola.masks import MaskSet
from tombola.objectives import Objective
from tombola.partition import Partition
from tombola.problem import Problem
from tombola.randomness import generator
from tombola.recipe import Recipe
from tombola.retrain import retrain
from tombola.schedules import kept
from tombola.scope import match, scope
from tombola.searches import first_mask, later, searched
from tombola.segments import segment
from tombola.settings import Settings
from tombola.stage import Stage, State
from tombola.telling import tell
from tombola.tickets import TicketModel

# What a search reads: the subsets in two data orders, shuffled subsets, or everything at once.
Source = Literal["own", "twin", "shuffled", "single", "single_union"]

DENSE = "dense-0.0"  # label of the training that depends on no search
# Searches that start where another source does: a control replaces one part, not the start as well.
REWIND: dict[Source, Source] = {"shuffled": "own", "single_union": "single"}


@dataclass
class Pipeline:
    """One backbone (it holds theta0), one task, one seed.

    The stages are done once per journal, whichever methods ask for them: RTL and the multi-model
    baseline share one search.
    """

    backbone: nn.Module
    objective: Objective
    data: Data
    partition: Partition
    settings: Settings
    seed: int
    journal: Journal
    network: str = ""  # these two begin the names of its stages where a journal has several:
    variant: str = ""  # of rewind points and searches; of searches alone, under other settings

    def __post_init__(self) -> None:
        check_kinds(self.backbone, self.objective, self.data, self.partition)
        module, s = self.backbone, self.settings
        found = scope(module, s.include or None, s.exclude)
        private = normalization.private_parameters(module, normalization.check(s.normalization))
        trained = [name for name, _ in module.named_parameters() if name not in found.names]
        self.f = Function(module, found, private | match(trained, s.private))
        self.theta0 = self.f.theta0()
        check_fit(self.f.write(self.theta0).eval(), self.data, self.partition)

    # -- problems ---------------------------------------------------------------------------------

    def problem(self, source: Source, recipe: Recipe) -> Problem:
        """The training problem of a source."""
        partition, objective = self.partition, self.objective
        if source == "shuffled":
            partition = partition.shuffled(generator(self.seed, "shuffled"))
        if source.startswith("single"):
            partition, objective = partition.whole(), objective.single(partition)
        order = source if source == "twin" else ""
        return Problem(self.f, self.data, partition, objective, recipe, self.seed, order)

    @property
    def told(self) -> Pipeline:
        """The same task with the number of the subset as an input; theta0 is equal in what both have.

        Raises:
            UsageError: the subset is what the objective asks for, or the backbone cannot be told it.
            PartitionError: subsets overlap.
        """
        self._told.journal = self.journal  # a run may have been opened since
        return self._told

    @cached_property
    def _told(self) -> Pipeline:
        backbone, data = tell(self.backbone, self.objective, self.data, self.partition, self.seed)
        return replace(self, backbone=backbone, data=data, network="told-")

    def under(self, name: str, changes: Mapping[str, Any]) -> Pipeline:
        """The same task with other settings for the search of a method; rewind points are shared."""
        if name not in self._variants:  # one serves all sparsities: its origin hashes all data
            settings = replace(self.settings, **changes)
            self._variants[name] = replace(self, settings=settings, variant=f"{name}-")
        self._variants[name].journal = self.journal
        return self._variants[name]

    @cached_property
    def _variants(self) -> dict[str, Pipeline]:
        return {}

    def budget(self, source: Source, steps: int) -> int:
        """Steps per ticket that give every source the same number of samples in all."""
        return steps * len(self.partition) if source.startswith("single") else steps

    # -- stages -----------------------------------------------------------------------------------

    def rewind_point(self, source: Source) -> Theta:
        """theta0, or the weights after the first dense steps on this source."""
        if not self.settings.rewind:
            return self.theta0
        source = REWIND.get(source, source)
        problem = self.problem(source, self.settings.train)
        dense = MaskSet.dense(self.f.scope, problem.partition.names)
        steps = self.budget(source, self.settings.rewind)

        def compute(stage: Stage) -> State:
            theta = retrain(problem, self.theta0, dense, steps, purpose="rewind", stage=stage)
            return theta.tensors(), {"seen": problem.seen}

        name = f"rewind-{self.network}{source}"
        return Theta.from_tensors(self.journal.once(name, compute, self._key(name))[0])

    def _key(self, *what: Any) -> str:
        """Of a stage that depends on nothing but this, so that runs with other searches may share it."""
        s = self.settings
        names = ("rewind", "train", "normalization", "private", "include", "exclude")
        how = {name: s.plain()[name] for name in names}
        whole = [self.origin, self.seed, self.data.augment is not None, how, what]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]

    def targets(self, source: Source) -> list[int]:
        """Counts at which a search stops to be judged, largest first."""
        if source == "single_union":
            return [int(self.masks("own", s).union().sum()) for s in self.reached()]
        return [kept(self.f.scope.size, s) for s in sorted(self.settings.sparsity)]

    def masks(self, source: Source, sparsity: float) -> MaskSet:
        """The masks of a search at one of the sparsities."""
        return self.search(source, sparsity)[0]

    def search(self, source: Source, sparsity: float) -> tuple[MaskSet, list[Theta] | None]:
        """The masks of a search, and the weights it has trained if they are kept (`tombola.rewinding`).

        Raises:
            NotReached: the alarm for collapse stopped the search before (`Settings.stop`).
        """
        problem = self.problem(source, self.settings.search)
        names, starts = problem.partition.names, None
        stopped = self.stopped(source)
        if stopped is not None and sparsity == stopped["sparsity"]:  # what the search went back to
            tensors, _ = self.journal.results[self._name("search", source, stopped["at"])]
            return MaskSet.unpack(self.f.scope, names, tensors["masks"]), None
        self._check_reached(source, sparsity)
        rounds = segment(self.settings, self.f.scope.size, self.targets(source), sparsity)
        start = self.rewind_point(source)
        guard: Guard | None = self._guard(source, problem, rounds.total)
        if self.settings.rewinding != "weights":
            starts = [start] * len(names)
        if rounds.after is not None:
            before, trained = self.search(source, rounds.after)
            starts = trained or starts
            guard = guard and guard.after_segment(
                self.journal.results[self._name("search", source, rounds.after)]
            )
        elif self.settings.first:
            before = self._first(source, sparsity, problem, rounds.first)
        else:
            before = MaskSet.dense(self.f.scope, names)

        times = self.budget(source, 1)
        at_once = self.journal.at_once
        compute = searched(problem, self.settings, start, before, starts, rounds, times, guard, at_once)
        tensors, _ = self.journal.once(self._name("search", source, sparsity), compute)
        self._check_reached(source, sparsity)
        masks = MaskSet.unpack(self.f.scope, names, tensors["masks"])
        return masks, rewinding.from_tensors(tensors, len(names)) if starts else None

    def _first(self, source: Source, sparsity: float, problem: Problem, count: int) -> MaskSet:
        """The first mask of a hybrid, drawn before any training."""
        compute = first_mask(problem, self.settings, self.rewind_point(source), count)
        tensors, _ = self.journal.once(self._name("first", source, sparsity), compute)
        return MaskSet.unpack(self.f.scope, problem.partition.names, tensors["masks"])

    def _name(self, phase: str, source: Source, sparsity: float) -> str:
        """The stage of a search at a sparsity; of its first mask one for all, if the search is one."""
        shared = phase == "first" and self.settings.nested
        return f"{phase}-{self.network}{self.variant}{source}" + ("" if shared else f"-{sparsity}")

    # -- the alarm for collapse -------------------------------------------------------------------

    def _guard(self, source: Source, problem: Problem, rounds: int) -> Guard:
        """The alarm for a search: it warns; where a rule is set, it may stop the search of the tickets."""
        rate = stated_rate(self.settings.stop)
        if rate is None or source != "own" or len(self.partition) < 2:
            return Guard(rounds, problem, rate or FALSE_ALARMS)
        stops = self.settings.stop.startswith("collapse")
        return Guard(rounds, problem, rate, stops, twin=self.problem("twin", self.settings.search))

    def stopped(self, source: Source) -> dict[str, Any] | None:
        """How the alarm stopped a search: ``at`` which level, and what ``sparsity`` it went back to."""
        if not self.settings.stop:
            return None
        levels = sorted(self.settings.sparsity)
        found = (self.journal.facts(self._name("search", source, s)) for s in levels)
        return next((facts["stopped"] for facts in found if facts and "stopped" in facts), None)

    def _check_reached(self, source: Source, sparsity: float) -> None:
        stopped = self.stopped(source)
        if stopped is not None and sparsity >= stopped["at"]:
            raise NotReached(not_reached(sparsity, stopped))

    def reached(self) -> list[float]:
        """The sparsities asked for that the search of the tickets reaches: all, unless the alarm stops it."""
        found: list[float] = []
        for sparsity in sorted(self.settings.sparsity) if self.settings.stop else ():
            try:
                self.masks("own", sparsity)
            except NotReached:
                return found
            found.append(sparsity)
        return found or sorted(self.settings.sparsity)

    def searched(self, search: Source | None, task: Source, sparsity: float) -> int:
        """Training samples that went into masks and rewind point up to this sparsity."""
        names = set()
        if self.settings.rewind:
            sources = [REWIND.get(source, source) for source in (search, task) if source]
            names = {f"rewind-{self.network}{source}" for source in sources}
        if search:
            wanted = [s for s in self.settings.sparsity if s <= sparsity]
            for s in wanted if self.settings.nested else [sparsity]:
                names |= {self._name(phase, search, s) for phase in ("first", "search")}
            stopped = self.stopped(search)
            if stopped is not None and sparsity == stopped["sparsity"]:
                names.add(self._name("search", search, stopped["at"]))
        facts = [self.journal.facts(name) for name in names]
        return sum(fact["seen"] for fact in facts if fact is not None)

    def start(self, search: Source | None, task: Source, sparsity: float, ticket: int | None) -> Theta:
        """Where Algorithm 2 starts: the rewind point, or what a search has trained if that is kept."""
        rewound = self.rewind_point(task)
        if search is None or self.settings.rewinding == "weights":
            return rewound
        masks, trained = self.search(search, sparsity)
        turns = range(len(masks)) if ticket is None else [ticket]
        owned = self.problem(task, self.settings.train).owned
        return rewinding.inherit(rewound, trained or [], masks, list(turns), owned)

    def recipe(self, search: Source | None) -> Recipe:
        """That of Algorithm 2; fine-tuning goes on at the learning rate with which the first round ended."""
        s = self.settings
        if search is None or s.rewinding != "fine_tune" or not s.T:
            return s.train
        return s.train.tail(later(s, self.budget(search, s.T)).lr)

    def train(
        self,
        label: str,
        source: Source,
        masks: MaskSet,
        ticket: int | None = None,
        start: Theta | None = None,
        recipe: Recipe | None = None,
    ) -> tuple[TicketModel, int]:
        """Retrain masks (all together, or one ticket alone) and finish the tickets; and samples seen.

        Training starts at the rewind point by the settings' recipe, or from other weights by another.
        """
        problem = self.problem(source, recipe or self.settings.train)
        steps = self.budget(source, self.settings.steps)
        turns, key = None if ticket is None else [ticket], ""
        start, form = start or self.rewind_point(source), self.settings.form
        if label == DENSE:
            key = self._key(label, steps, form)

        def compute(stage: Stage) -> State:
            theta = retrain(problem, start, masks, steps, form=form, tickets=turns, stage=stage)  # type: ignore[arg-type]
            return theta.tensors(), {"seen": problem.seen}

        tensors, facts = self.journal.once(f"train-{label}", compute, key)
        theta = Theta.from_tensors(tensors)
        return self.finish(problem, theta, masks, label, ticket), facts["seen"]

    # -- tickets ----------------------------------------------------------------------------------

    def finish(
        self, problem: Problem, theta: Theta, masks: MaskSet, label: str, ticket: int | None = None
    ) -> TicketModel:
        """A `TicketModel` from trained weights, its norm statistics estimated on training data."""
        kept_tickets = range(len(masks)) if ticket is None else [ticket]

        def passes(k: int) -> list[tuple[int, Tensor | None, Tensor]]:
            inputs = problem.inputs(k, self.settings.statistics, "statistics")
            return [(k, masks.masks_KN[k], x) for x in inputs]

        private = {
            masks.names[k]: dict(self.f.private.unflatten(theta.private[k].detach())) for k in kept_tickets
        }
        if self.settings.normalization == "shared":
            every = [one for k in kept_tickets for one in passes(k)]
            theta.buffers.update(normalization.estimate(self.f, theta, every))
        else:
            for k in kept_tickets:
                private[masks.names[k]] |= normalization.estimate(self.f, theta, passes(k))
        facts = {"label": label, "seed": self.seed, "settings": self.settings.plain(), **self.origin}
        backbone = self.f.write(theta)
        return TicketModel(backbone, masks.select(list(private)), private, facts).eval()

    @cached_property
    def origin(self) -> dict[str, str]:
        """What the tickets come from, as hashes; a run goes on only with the same."""
        splits = {f"{s}.{part}": getattr(self.data.split(s), part) for s in SPLITS for part in ("x", "y")}
        subsets = {f"{self.partition.names} {s}": m for s, m in self.partition.members.items()}
        architecture = json.dumps(storage.architecture(self.backbone), sort_keys=True)
        return {
            "theta0": storage.digest(self.theta0.tensors()),
            "data": storage.digest(splits),
            "partition": storage.digest(subsets),
            "backbone": hashlib.sha256(architecture.encode()).hexdigest(),
            "objective": type(self.objective).__name__,
        }


def not_reached(sparsity: float, stopped: Mapping[str, Any]) -> str:
    """Why a sparsity was not reached, in a line."""
    good = stopped["sparsity"]
    back = f"the last good round is at {good:.1%}" if good else "no round was good"
    return (
        f"{sparsity:.1%} of the weights removed was not reached: the alarm for collapse stopped the search "
        f"on the way to {stopped['at']:.1%}, and {back}; without stop=... it only warns"
    )


@torch.no_grad()
def predict(
    module: nn.Module, data: Data, split: str, index: Tensor | None = None, batch: int = 500
) -> Tensor:
    """Outputs of a plain module on samples of a split, all of them by default, ``[S, ...]``."""
    samples = torch.arange(len(data.split(split))) if index is None else index
    return torch.cat([module(data.inputs(split, index)) for index in samples.split(batch)])
