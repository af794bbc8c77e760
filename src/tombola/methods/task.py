"""What is to be done: one backbone (it holds theta0), data, a partition, an objective, one seed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from tombola._utils import io
from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.masks.prunable import match, scope
from tombola.methods.checks import check_fit, check_kinds
from tombola.objectives import Objective
from tombola.pruning.schedules import kept
from tombola.settings import Settings, TrainConfig
from tombola.tickets import files
from tombola.training import norm
from tombola.training.model import FunctionalModel, Params
from tombola.training.trainer import Problem

# What a search reads: the subsets in two data orders, shuffled subsets, or everything at once.
DataView = Literal["own", "twin", "shuffled", "single", "single_union"]
# Searches that start where another source does: a control replaces one part, not the start as well.
_BEGINNINGS: dict[DataView, DataView] = {"shuffled": "own", "single_union": "single"}


@dataclass
class Task:
    """One backbone, one task, one seed, and the training problems that they set.

    Raises:
        UsageError, DataError, PartitionError: parts of the wrong kind, or that do not fit each other.
    """

    backbone: nn.Module
    objective: Objective
    data: Data
    partition: Partition
    settings: Settings
    seed: int

    def __post_init__(self) -> None:
        check_kinds(self.backbone, self.objective, self.data, self.partition, self.seed)
        module, s = self.backbone, self.settings
        found = scope(module, s.include or None, s.exclude)
        for sparsity in s.sparsity:
            if not kept(found.size, sparsity):
                most = math.floor(1e6 * (1 - 1 / found.size)) / 1e6
                raise UsageError(f"sparsity {sparsity} leaves none of {found.size:,} weights: at most {most}")
        private = norm.private_parameters(module, norm.check(s.normalization))
        trained = [name for name, _ in module.named_parameters() if name not in found.names]
        self.f: FunctionalModel = FunctionalModel(module, found, private | match(trained, s.private))
        self.theta0: Params = self.f.theta0()
        check_fit(self.f.write(self.theta0).eval(), self.data, self.partition)

    def problem(self, source: DataView, config: TrainConfig) -> Problem:
        """The training problem of a source."""
        partition, objective = self.partition, self.objective
        if source == "shuffled":
            partition = partition.shuffled(generator(self.seed, "shuffled"))
        if source.startswith("single"):
            partition, objective = partition.whole(), objective.single(partition)
        objective = objective.of(self.data, partition)
        order = source if source == "twin" else ""
        return Problem(self.f, self.data, partition, objective, config, self.seed, order)

    def beginning(self, source: DataView) -> DataView:
        """The source whose first dense steps lead to the rewind point of this one."""
        return "single" if self.settings.rewind_task == "single" else _BEGINNINGS.get(source, source)

    def budget(self, source: DataView, steps: int) -> int:
        """Steps per ticket that give every source the same number of samples in all."""
        return steps * len(self.partition) if source.startswith("single") else steps

    @cached_property
    def origin(self) -> dict[str, str]:
        """What the tickets come from, as hashes; a run goes on only with the same."""
        splits = {f"{s}.{part}": getattr(self.data.split(s), part) for s in SPLITS for part in ("x", "y")}
        subsets = {f"{self.partition.names} {s}": m for s, m in self.partition.members.items()}
        few = torch.arange(min(8, len(self.data.train)))
        inputs = self.data.inputs("train", few, device=self.f.device).cpu()
        architecture = json.dumps(files.architecture(self.backbone), sort_keys=True)
        return {
            "theta0": io.digest(self.theta0.tensors()),
            "data": io.digest(splits),
            "inputs": io.digest({"x": inputs}),  # of a few: what `prepare` makes of the data
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
        how = {name: s.plain()[name] for name in names}
        whole = [self.origin, self.seed, self.data.augment is not None, how, what]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]
