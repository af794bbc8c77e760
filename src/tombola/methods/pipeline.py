"""From a backbone, data and a partition to tickets: the stages of every method, each done once.

A method (`tombola.methods.table`) says whose masks, which task, and whether weights are shared. The pipeline
turns that into stages: the rewind point, the search (Algorithm 1), the training (Algorithm 2), and the
tickets with their norm statistics.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tombola._utils import batch, io
from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.device import device_of
from tombola._utils.errors import ScopeError, UsageError
from tombola._utils.replica import copied
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import match, scope
from tombola.masks.reference import changed, from_reference, references
from tombola.methods.context import with_context_input
from tombola.methods.rounds import Rounds, later, rounds_to
from tombola.objectives import Objective
from tombola.pruning import scores
from tombola.pruning.schedules import kept
from tombola.runs.cache import StageCache
from tombola.runs.stages import Stage
from tombola.settings import Settings, TrainConfig
from tombola.tickets import files, probe
from tombola.tickets.finish import finish
from tombola.tickets.inputs import described
from tombola.tickets.model import TicketModel
from tombola.training import norm, rewind
from tombola.training.callbacks import rules
from tombola.training.callbacks.base import Callback
from tombola.training.callbacks.collapse import CollapseMonitor
from tombola.training.callbacks.similarity import SimilarityRecord
from tombola.training.checks import check_fit, check_kinds, check_references
from tombola.training.head import Head, find_head
from tombola.training.joint import train_jointly
from tombola.training.loop import TrainLoop
from tombola.training.model import FunctionalModel, Params, one_device
from tombola.training.parallel import batched
from tombola.training.parallel.gradients import gradients_of
from tombola.training.pruning_context import Pruner
from tombola.training.rewind import StartWeights
from tombola.training.search import find_tickets
from tombola.training.trainer import Problem

# What a search or a training reads: the subsets in two data orders, shuffled subsets, or everything at once.
DataView = Literal["own", "twin", "shuffled", "single", "single_union"]
# Searches that start where another view does: a control replaces one part, not the start as well.
_BEGINNINGS: dict[DataView, DataView] = {"shuffled": "own", "single_union": "single"}


@dataclass
class Pipeline:
    """One backbone (it holds theta0), one task, one seed; its stages are done once, whichever methods ask.

    Raises:
        UsageError, DataError, PartitionError: parts of the wrong kind, or that do not fit each other.
    """

    backbone: nn.Module
    objective: Objective
    data: Data
    partition: Partition
    settings: Settings
    seed: int
    cache: StageCache
    conditioned: bool = False  # whether the network is told the context
    train_loop: TrainLoop | None = None  # of the user's own, in searches
    variant: str = ""  # the method whose settings searches run under, if not those of the run

    def __post_init__(self) -> None:
        check_kinds(self.backbone, self.objective, self.data, self.partition, self.seed)
        module, s = self.backbone, self.settings
        one_device(module)
        if self.cache.parallel == "batched":
            batched.check(self.objective)
        check_fit(copied(module).eval(), self.data, self.partition, self.objective.read)
        self.head = self._head()
        found = scope(module, s.include or None, s.exclude, self.head.weight if self.head else None)
        for sparsity in s.sparsity:
            if not kept(found.size, sparsity):
                most = math.floor(1e6 * (1 - 1 / found.size)) / 1e6
                raise UsageError(f"sparsity {sparsity} leaves none of {found.size:,} weights: at most {most}")
        if s.reference == "theta0" and not references(module):
            self.backbone = module = from_reference(module, found.names)
            found = Layout(tuple(map(changed, found.names)), found.shapes)
        private = norm.private_parameters(module, norm.check(s.normalization))
        trained = [name for name, _ in module.named_parameters() if name not in found.names]
        self.f: FunctionalModel = FunctionalModel(
            module, found, private | match(trained, s.private), frozen_norms=s.normalization == "frozen"
        )
        self.theta0: Params = self.f.theta0()
        self._related: dict[str, Pipeline] = {}
        check_references(self.f, module, self.data.inputs("train", torch.arange(1), device=self.f.device))

    def _head(self) -> Head | None:
        """The output layer; an error where it is needed and is not known."""
        s, few = self.settings, torch.arange(min(2, len(self.data.train)))
        if s.head == "none":
            return None
        x = self.data.inputs("train", few, device=device_of(self.backbone))
        found = find_head(self.backbone, x, self.objective.read, s.head)
        if found is None and not s.include:
            raise ScopeError(
                "the outputs are computed of several weights, or of none, so that the output layer, which is "
                "not pruned by default, is not known: name it with head=, say head='none', or name what may "
                "be pruned with include=[...]"
            )
        return found

    # -- the same task, otherwise -----------------------------------------------------------------

    @property
    def with_context(self) -> Pipeline:
        """The same task with the number of the subset as an input; theta0 is equal in what both have.

        Raises:
            UsageError: the subset is what the objective asks for, or the backbone cannot be told it.
            PartitionError: subsets overlap.
        """
        if "context" not in self._related:
            given = self.backbone, self.objective, self.data, self.partition, self.seed
            backbone, data = with_context_input(*given)
            self._related["context"] = replace(self, backbone=backbone, data=data, conditioned=True)
        return self._found("context")

    def under(self, method: str, changes: Mapping[str, Any]) -> Pipeline:
        """The same task with other settings for the search of a method; rewind points are shared.

        Raises:
            UsageError: the method cannot go with the other settings.
        """
        name = f"under {method}"
        if name not in self._related:  # one serves all sparsities: its origin hashes all data
            try:
                settings = replace(self.settings, **changes)
            except UsageError as error:
                raise UsageError(f"method {method}: {error}") from None
            self._related[name] = replace(self, settings=settings, variant=method)
        return self._found(name)

    def _found(self, name: str) -> Pipeline:
        self._related[name].cache = self.cache  # a run may have been opened since
        return self._related[name]

    # -- training problems ------------------------------------------------------------------------

    def problem(self, view: DataView, config: TrainConfig) -> Problem:
        """The training problem of a view."""
        partition, objective = self.partition, self.objective
        if view == "shuffled":
            partition = partition.shuffled(generator(self.seed, "shuffled"))
        if view.startswith("single"):
            partition, objective = partition.whole(), objective.single(partition)
        objective = objective.of(self.data, partition)
        order = view if view == "twin" else ""
        problem = Problem(self.f, self.data, partition, objective, config, self.seed, order)
        problem.head = self.head
        return problem

    def beginning(self, view: DataView) -> DataView:
        """The view whose first dense steps lead to the rewind point of this one."""
        return "single" if self.settings.rewind_task == "single" else _BEGINNINGS.get(view, view)

    def budget(self, view: DataView, steps: int) -> int:
        """Steps per ticket that give every view the same number of samples in all."""
        return steps * len(self.partition) if view.startswith("single") else steps

    # -- stages: the rewind point -----------------------------------------------------------------

    def rewind_point(self, view: DataView) -> Params:
        """theta0, or the weights after the first dense steps on this view."""
        if not self.settings.rewind:
            return self.theta0
        view = self.beginning(view)
        problem = self.problem(view, self.settings.train)
        dense = MaskSet.dense(self.f.scope, problem.partition.names)
        steps = self.budget(view, self.settings.rewind)

        def compute(checkpoint: Checkpoint) -> State:
            of = gradients_of(problem, self.cache.parallel)
            theta = train_jointly(
                problem, self.theta0, dense, steps, purpose="rewind", gradients=of, checkpoint=checkpoint
            )
            return theta.tensors(), {"seen": problem.samples_seen}

        stage = self._rewind_stage(view)
        found, _ = self.cache.get_or_compute(stage, compute, self.key(str(stage)))
        return Params.from_tensors(found, self.f.device)

    def _rewind_stage(self, view: DataView) -> Stage:
        return Stage("rewind", view=self.beginning(view), conditioned=self.conditioned)

    # -- stages: the search, Algorithm 1 ----------------------------------------------------------

    def masks(self, view: DataView, sparsity: float) -> MaskSet:
        """The masks of a search at one of the sparsities."""
        return self.search(view, sparsity)[0]

    def search(self, view: DataView, sparsity: float) -> tuple[MaskSet, StartWeights]:
        """The masks of a search at a sparsity, and where its tickets go on (`tombola.training.rewind`)."""
        s = self.settings
        problem, theta0 = self.problem(view, s.search), self.rewind_point(view)
        rounds = rounds_to(s, self.f.scope.size, self.targets(view), sparsity)
        callbacks = self._callbacks()
        before, start = self._before(view, sparsity, rounds, problem, theta0, callbacks)
        T = self.budget(view, s.T)

        def compute(checkpoint: Checkpoint) -> State:
            masks = find_tickets(
                problem,
                theta0,
                before,
                rounds.counts,
                T,
                pruner=self._pruner(s.score, view),
                rewind=start,
                first_round=rounds.done,
                later=later(s, T) if s.rewinding == "fine_tune" else None,
                callbacks=callbacks,
                train_loop=self.train_loop,
                map_tickets=self.cache.parallel,
                checkpoint=checkpoint,
            )
            states = [callback.state() for callback in callbacks]
            found = {"seen": problem.samples_seen, "callbacks": states}
            return {"masks": masks.pack(), **start.tensors()}, found

        tensors, _ = self.cache.get_or_compute(self._stage("search", view, sparsity), compute)
        start.restore(tensors, self.f.device)
        return MaskSet.unpack(self.f.scope, problem.partition.names, tensors["masks"]), start

    def _before(
        self,
        view: DataView,
        sparsity: float,
        rounds: Rounds,
        problem: Problem,
        theta0: Params,
        callbacks: Sequence[Callback],
    ) -> tuple[MaskSet, StartWeights]:
        """The masks and weights that a search begins with: those of the sparsity before, or dense ones.

        The callbacks are put into the state in which the sparsity before left them.
        """
        names, keeps = problem.partition.names, self.settings.rewinding != "weights"
        if rounds.after is not None:
            masks, ended = self.search(view, rounds.after)
            facts = self.cache.metadata(self._stage("search", view, rounds.after)) or {}
            states = facts.get("callbacks", ())  # older runs have none
            for callback, state in zip(callbacks, states, strict=False):
                callback.restore(state)
            return masks, StartWeights(ended.thetas, keeps=keeps, trained=keeps)
        start = StartWeights([theta0] * len(names), keeps=keeps)
        if self.settings.first:
            return self._first_masks(view, sparsity, problem, theta0, rounds.first), start
        return MaskSet.dense(self.f.scope, names), start

    def _first_masks(
        self, view: DataView, sparsity: float, problem: Problem, theta0: Params, count: int
    ) -> MaskSet:
        """The first mask of a hybrid, of ``count`` weights, drawn before any training."""
        names = problem.partition.names

        def compute(checkpoint: Checkpoint) -> State:
            fresh = replace(problem, samples_seen=0)  # the search that follows counts its own samples
            dense, pruner = MaskSet.dense(self.f.scope, names), self._pruner(self.settings.first, view)
            masks = find_tickets(fresh, theta0, dense, [count], 0, pruner=pruner, checkpoint=checkpoint)
            return {"masks": masks.pack()}, {"seen": fresh.samples_seen}

        tensors, _ = self.cache.get_or_compute(self._stage("first", view, sparsity), compute)
        return MaskSet.unpack(self.f.scope, names, tensors["masks"])

    def _pruner(self, score: str | scores.Criterion, view: DataView) -> Pruner:
        s, criterion = self.settings, scores.parse(score)
        if not self.variant:  # batches are per ticket; a classic says itself how many it reads in all
            criterion = replace(criterion, batches=self.budget(view, criterion.batches))
        return Pruner(criterion, s.selection, s.granularity, s.floor)  # type: ignore[arg-type]

    def _callbacks(self) -> list[Callback]:
        rule = rules.parse(self.settings.callback)
        return [SimilarityRecord(), CollapseMonitor(), *([rule] if rule is not None else [])]

    def _stage(self, phase: Literal["first", "search"], view: DataView, sparsity: float) -> Stage:
        """The stage of a search; of the first mask there is one for all sparsities, if the search is one."""
        shared = phase == "first" and self.settings.nested
        return Stage(phase, self.variant, view, None if shared else sparsity, conditioned=self.conditioned)

    def targets(self, view: DataView) -> list[int]:
        """Counts at which a search stops to be judged, largest first."""
        sparsities = sorted(self.settings.sparsity)
        if view == "single_union":
            return [int(self.masks("own", s).union().sum()) for s in sparsities]
        return [kept(self.f.scope.size, s) for s in sparsities]

    def samples_in_search(self, search: DataView | None, task: DataView, sparsity: float) -> int:
        """Training samples that went into masks and rewind point up to this sparsity."""
        s, stages = self.settings, set[Stage]()
        if s.rewind:
            stages |= {self._rewind_stage(view) for view in (search, task) if view}
        if search:
            below = [each for each in s.sparsity if each <= sparsity] if s.nested else [sparsity]
            stages |= {self._stage(phase, search, each) for each in below for phase in ("first", "search")}
        found = (self.cache.metadata(stage) for stage in stages)
        return sum(facts["seen"] for facts in found if facts is not None)

    # -- stages: the training, Algorithm 2 --------------------------------------------------------

    def start(self, search: DataView | None, task: DataView, sparsity: float, ticket: int | None) -> Params:
        """The start of Algorithm 2: the rewind point, or what a search has trained if that is kept."""
        rewound = self.rewind_point(task)
        if search is None or self.settings.rewinding == "weights":
            return rewound
        (masks, ended), problem = self.search(search, sparsity), self.problem(task, self.settings.train)
        names, thetas = problem.partition.names, ended.thetas
        if len(masks) < len(names):  # one search for all tickets
            masks = MaskSet(self.f.scope, dict.fromkeys(names, masks.masks_KN[0]))
            thetas = thetas * len(names)
        tickets = range(len(names)) if ticket is None else [ticket]
        theta = rewind.inherit(rewound, thetas, masks, list(tickets), problem.trainable)
        if self.settings.frozen:  # a mean of equal numbers rounds
            theta.weights_N.data.copy_(rewound.weights_N.detach())
        return theta

    def config(self, search: DataView | None) -> TrainConfig:
        """The config of Algorithm 2; fine-tuning goes on at the rate with which the first round ended."""
        s = self.settings
        if search is None or s.rewinding != "fine_tune" or not s.T:
            return s.train
        return s.train.tail(later(s, self.budget(search, s.T)).lr)

    def train(
        self,
        stage: Stage,
        view: DataView,
        masks: MaskSet,
        ticket: int | None = None,
        start: Params | None = None,
        config: TrainConfig | None = None,
        further: int = 0,
        frozen: bool = False,
    ) -> tuple[TicketModel, int]:
        """The tickets of masks that are trained together, or of one ticket alone; and samples seen.

        Training starts at the rewind point under the settings' config, or from other weights under another,
        and takes ``further`` batches per ticket more than the settings say. ``frozen`` weights in scope
        stay as they start.
        """
        problem, s = self.problem(view, config or self.settings.train), self.settings
        problem.frozen_N = torch.ones_like(masks.masks_KN[0], device=self.f.device) if frozen else None
        steps, start = self.budget(view, s.steps + further), start or self.rewind_point(view)
        tickets = range(len(masks)) if ticket is None else [ticket]
        # The training of a dense network depends on no search, so runs may share it.
        key = self.key("dense-0.0", steps, s.form) if stage.method == "dense" else ""

        def compute(checkpoint: Checkpoint) -> State:
            theta = train_jointly(
                problem,
                start,
                masks,
                steps,
                form=s.form,  # type: ignore[arg-type]
                shares=s.shares,  # type: ignore[arg-type]
                tickets=tickets,
                gradients=gradients_of(problem, self.cache.parallel),
                checkpoint=checkpoint,
            )
            return theta.tensors(), {"seen": problem.samples_seen}

        tensors, facts = self.cache.get_or_compute(stage, compute, key)
        theta = Params.from_tensors(tensors, self.f.device)
        about = self._metadata(str(stage).removeprefix("train-"), view, tickets, problem)
        return finish(problem, theta, masks, tickets, s, about), facts["seen"]

    def _metadata(
        self, label: str, view: DataView, tickets: Sequence[int], problem: Problem
    ) -> dict[str, Any]:
        """The metadata of a ticket file."""
        about = {"label": label, "seed": self.seed, "settings": self.settings.plain(), **self.origin}
        x = self.data.inputs("train", torch.arange(min(8, len(self.data.train))))
        about |= {"task": view, "outputs": list(tickets)}
        about |= {"probe": probe.described(x)} if self.data.contexts is None else {}
        about |= {"input": self.taken}
        about |= {"shape": list(x.shape[1:])} if isinstance(x, Tensor) else {}
        about |= problem.objective.metadata()
        if names := self._class_names(problem):
            about |= {"class_names": names}
        if classes := problem.objective.answers(problem.partition):
            about |= {"classes": classes, **({"told": list(classes)} if self.data.contexts else {})}
        return about

    def _class_names(self, problem: Problem) -> list[str]:
        """The names of the outputs, where those are classes of ``y`` or subsets and have names."""
        if problem.objective.answer != "class":
            return []
        return list(self.partition.names if problem.objective.context_is_answer else self.data.class_names)

    @cached_property
    def taken(self) -> dict[str, Any]:
        """What the network takes, as metadata."""
        return described(self.data, self.objective)

    # -- what all depends on ----------------------------------------------------------------------

    @cached_property
    def origin(self) -> dict[str, str]:
        """The origin of the tickets, as hashes; a run goes on only with the same."""
        splits = {f"{s}.{name}": t for s in SPLITS for name, t in self.data.split(s).fingerprint().items()}
        subsets = {f"{self.partition.names} {s}": m for s, m in self.partition.members.items()}
        few = torch.arange(min(8, len(self.data.train)))
        x = self.data.inputs("train", few, device=self.f.device)
        inputs = {f"x{path}": t.cpu() for path, t in batch.tensors(x).items()}
        architecture = json.dumps(files.architecture(self.backbone), sort_keys=True)
        return {
            "theta0": io.digest(self.theta0.tensors()),
            "data": io.digest(splits),
            "inputs": io.digest(inputs),  # of a few: what `prepare` makes of the data
            "augmented": str(self.data.augment is not None).lower(),
            "partition": io.digest(subsets),
            "backbone": hashlib.sha256(architecture.encode()).hexdigest(),
            "objective": type(self.objective).__name__,
            **self.objective.of(self.data, self.partition).choices(),
        }

    def key(self, *what: Any) -> str:
        """Of a stage that depends on nothing but this, so that runs with other searches may share it."""
        s = self.settings
        names = ("rewind", "train", "normalization", "private", "include", "exclude")
        how = {name: s.plain()[name] for name in names} | ({"head": s.head} if s.head else {})
        how |= {"reference": s.reference} if s.reference != "zero" else {}
        how |= {"weights": s.weights} if s.weights != "free" else {}
        whole = [self.origin, self.seed, self.data.augment is not None, how, what]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


@torch.no_grad()
def predict(
    module: nn.Module,
    data: Data,
    split: str,
    index: Tensor | None = None,
    rows: int = 500,
    read: Callable[[Any], Tensor] = batch.part_of,
    judged: Callable[[Tensor, Tensor], Tensor] = lambda outputs, _: outputs,
) -> Tensor:
    """Outputs of a plain module on samples of a split, all of them by default, ``[S, ...]`` on the CPU.

    ``judged`` makes of the outputs and targets of a few samples what is wanted of them.
    """
    device, y = device_of(module), data.split(split).y
    samples = torch.arange(len(y)) if index is None else index
    parts = samples.split(rows)
    inputs = zip(parts, data.batches(split, parts, device), strict=True)
    return torch.cat([judged(read(batch.call(module, x)), y[part]).cpu() for part, x in inputs])
