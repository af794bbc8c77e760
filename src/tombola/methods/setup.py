"""What all stages work on: backbone, data, partition, objective and settings, checked and described."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from tombola._utils import batch, io
from tombola._utils.device import device_of
from tombola._utils.errors import ScopeError, UsageError
from tombola._utils.replica import copied
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.masks.layout import Layout
from tombola.masks.low_rank import adapter_names, with_adapters
from tombola.masks.prunable import match, scope
from tombola.masks.reference import changed, from_reference, original, references
from tombola.methods.context import with_context_input
from tombola.objectives import Objective
from tombola.pruning.schedules import kept
from tombola.runs.cache import StageCache
from tombola.settings import Settings, TrainConfig
from tombola.tickets import files, probe
from tombola.tickets.inputs import described
from tombola.training import norm
from tombola.training.checks import check_fit, check_kinds, check_references
from tombola.training.head import Head, find_head
from tombola.training.loop import TrainLoop
from tombola.training.model import FunctionalModel, Params, one_device
from tombola.training.parallel import BATCHES, batched
from tombola.training.trainer import Problem

# What a search or a training reads: the subsets in two data orders, shuffled subsets, or everything at once.
DataView = Literal["own", "twin", "shuffled", "single", "single_union"]
# Searches that start where another view does: a control replaces one part, not the start as well.
_BEGINNINGS: dict[DataView, DataView] = {"shuffled": "own", "single_union": "single"}


@dataclass
class Setup:
    """One backbone (it holds theta0), one task, one seed.

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
        if adapter_names(module):
            raise UsageError("the network has adapters already: give a plain one, such as tickets.bake(NAME)")
        if self.cache.parallel in BATCHES:
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
        if s.adapters:  # of f alone: the same task under other settings begins without
            drawn = generator(self.seed, "adapters")
            module = with_adapters(module, map(original, found.names), s.adapters, drawn)
            found = Layout(tuple(changed(original(name)) for name in found.names), found.shapes)
        private = norm.private_parameters(module, norm.check(s.normalization))
        trained = [name for name, _ in module.named_parameters() if name not in found.names]
        self.f: FunctionalModel = FunctionalModel(
            module,
            found,
            private | match(trained, s.private) | {*adapter_names(module)},
            frozen_norms=s.normalization == "frozen",
        )
        self.theta0: Params = self.f.theta0()
        self._related: dict[str, Self] = {}
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
    def with_context(self) -> Self:
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

    def under(self, method: str, changes: Mapping[str, Any]) -> Self:
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

    def _found(self, name: str) -> Self:
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

    # -- what is kept of it ----------------------------------------------------------------------

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
        how |= {"adapters": s.adapters} if s.adapters else {}
        how |= {"weights": s.weights} if s.weights != "free" else {}
        whole = [self.origin, self.seed, self.data.augment is not None, how, what]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]

    def metadata(
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
