"""From a backbone, data and a partition to tickets: the parts of every method, each done once.

A method (`tombola.methods.table`) says which masks, which objective and whether weights are shared. The
pipeline turns that into stages: the rewind point, the search (Algorithm 1), the training
(Algorithm 2), and the tickets with their norm statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.device import device_of
from tombola._utils.errors import NotReached, UsageError
from tombola.data.dataset import Data
from tombola.masks.maskset import MaskSet
from tombola.methods.context import on_progress
from tombola.methods.finish import finish
from tombola.methods.rounds import later
from tombola.methods.search import Search
from tombola.methods.task import DataView, Task
from tombola.pruning.schedules import kept
from tombola.recipe import TrainConfig
from tombola.runs.cache import StageCache
from tombola.tickets.model import TicketModel
from tombola.training import rewind
from tombola.training.joint import retrain
from tombola.training.model import Params

DENSE = "dense-0.0"  # label of the training that depends on no search


@dataclass
class Pipeline(Task):
    """A task whose stages are done once per journal, whichever methods ask for them.

    RTL and the multi-model baseline share one search.
    """

    cache: StageCache
    network: str = ""  # these two begin the names of its stages where a journal has several:
    variant: str = ""  # of rewind points and searches; of searches alone, under other settings

    # -- the same task, otherwise -----------------------------------------------------------------

    @property
    def conditioned(self) -> Pipeline:
        """The same task with the number of the subset as an input; theta0 is equal in what both have.

        Raises:
            UsageError: the subset is what the objective asks for, or the backbone cannot be told it.
            PartitionError: subsets overlap.
        """
        self._told.cache = self.cache  # a run may have been opened since
        return self._told

    @cached_property
    def _told(self) -> Pipeline:
        backbone, data = on_progress(self.backbone, self.objective, self.data, self.partition, self.seed)
        return replace(self, backbone=backbone, data=data, network="told-")

    def under(self, name: str, changes: Mapping[str, Any]) -> Pipeline:
        """The same task with other settings for the search of a method; rewind points are shared.

        Raises:
            UsageError: the method cannot go with the other settings.
        """
        if name not in self._variants:  # one serves all sparsities: its origin hashes all data
            try:
                settings = replace(self.settings, stop="", **changes)  # that rule is for the tickets' search
            except UsageError as error:
                raise UsageError(f"method {name}: {error}") from None
            self._variants[name] = replace(self, settings=settings, variant=f"{name}-")
        self._variants[name].cache = self.cache
        return self._variants[name]

    @cached_property
    def _variants(self) -> dict[str, Pipeline]:
        return {}

    # -- stages -----------------------------------------------------------------------------------

    def rewind_point(self, source: DataView) -> Params:
        """theta0, or the weights after the first dense steps on this source."""
        if not self.settings.rewind:
            return self.theta0
        source = self.beginning(source)
        problem = self.problem(source, self.settings.train)
        dense = MaskSet.dense(self.f.scope, problem.partition.names)
        steps = self.budget(source, self.settings.rewind)

        def compute(checkpoint: Checkpoint) -> State:
            theta = retrain(problem, self.theta0, dense, steps, purpose="rewind", checkpoint=checkpoint)
            return theta.tensors(), {"seen": problem.samples_seen}

        name = f"rewind-{self.network}{source}"
        return Params.from_tensors(self.cache.get_or_compute(name, compute, self.key(name))[0], self.f.device)

    def targets(self, source: DataView) -> list[int]:
        """Counts at which a search stops to be judged, largest first."""
        if source == "single_union":
            return [int(self.masks("own", s).union().sum()) for s in self.reached()]
        return [kept(self.f.scope.size, s) for s in sorted(self.settings.sparsity)]

    def masks(self, source: DataView, sparsity: float) -> MaskSet:
        """The masks of a search at one of the sparsities."""
        return self.search(source, sparsity)[0]

    def search(self, source: DataView, sparsity: float) -> tuple[MaskSet, rewind.Starts]:
        """The masks of a search, and where its tickets go on (`tombola.training.rewind`).

        Raises:
            NotReached: the alarm for collapse stopped the search before (`Settings.stop`).
        """
        return self.search_of(source).at(sparsity)

    def search_of(self, source: DataView) -> Search:
        """The search of a source; nothing is computed before its masks are asked for."""
        name = f"{self.network}{self.variant}{source}"
        start, targets = partial(self.rewind_point, source), partial(self.targets, source)
        return Search(self, source, self.cache, name, start, targets)

    def stopped(self, source: DataView) -> dict[str, Any] | None:
        """How the alarm stopped a search: ``at`` which level, and what ``sparsity`` it went back to."""
        return self.search_of(source).stopped

    def reached(self) -> list[float]:
        """The sparsities asked for that the search of the tickets reaches: all, unless the alarm stops it."""
        wanted, found = sorted(self.settings.sparsity), list[float]()
        if not self.settings.stop:
            return wanted
        for sparsity in wanted:
            try:
                self.masks("own", sparsity)
            except NotReached:
                break
            found.append(sparsity)
        return found

    def seen_in_search(self, search: DataView | None, task: DataView, sparsity: float) -> int:
        """Training samples that went into masks and rewind point up to this sparsity."""
        names = set()
        if self.settings.rewind:
            names = {f"rewind-{self.network}{self.beginning(source)}" for source in (search, task) if source}
        if search:
            names |= self.search_of(search).stages(sparsity)
        metadata = [self.cache.metadata(name) for name in names]
        return sum(fact["seen"] for fact in metadata if fact is not None)

    def start(self, search: DataView | None, task: DataView, sparsity: float, ticket: int | None) -> Params:
        """Where Algorithm 2 starts: the rewind point, or what a search has trained if that is kept."""
        rewound = self.rewind_point(task)
        if search is None or self.settings.rewinding == "weights":
            return rewound
        (masks, starts), problem = self.search(search, sparsity), self.problem(task, self.settings.train)
        names, thetas = problem.partition.names, starts.thetas
        if len(masks) < len(names):  # one search for all tickets
            masks = MaskSet(self.f.scope, dict.fromkeys(names, masks.masks_KN[0]))
            thetas = thetas * len(names)
        turns = range(len(names)) if ticket is None else [ticket]
        return rewind.inherit(rewound, thetas, masks, list(turns), problem.trainable)

    def config(self, search: DataView | None) -> TrainConfig:
        """That of Algorithm 2; fine-tuning goes on at the learning rate with which the first round ended."""
        s = self.settings
        if search is None or s.rewinding != "fine_tune" or not s.T:
            return s.train
        return s.train.tail(later(s, self.budget(search, s.T)).lr)

    def train(
        self,
        label: str,
        source: DataView,
        masks: MaskSet,
        ticket: int | None = None,
        start: Params | None = None,
        config: TrainConfig | None = None,
        further: int = 0,
    ) -> tuple[TicketModel, int]:
        """Retrain masks (all together, or one ticket alone) and finish the tickets; and samples seen.

        Training starts at the rewind point by the settings' recipe, or from other weights by another, and
        takes ``further`` batches per ticket more than the settings say.
        """
        problem = self.problem(source, config or self.settings.train)
        steps = self.budget(source, self.settings.steps + further)
        turns, key = None if ticket is None else [ticket], ""
        start, form, shares = start or self.rewind_point(source), self.settings.form, self.settings.shares
        if label == DENSE:
            key = self.key(label, steps, form)

        def compute(checkpoint: Checkpoint) -> State:
            how: dict[str, Any] = {"form": form, "shares": shares, "tickets": turns}
            theta = retrain(problem, start, masks, steps, **how, checkpoint=checkpoint)
            return theta.tensors(), {"seen": problem.samples_seen}

        tensors, metadata = self.cache.get_or_compute(f"train-{label}", compute, key)
        theta = Params.from_tensors(tensors, self.f.device)
        own = range(len(masks)) if ticket is None else [ticket]
        about = {"label": label, "seed": self.seed, "settings": self.settings.plain(), **self.origin}
        shape = self.data.inputs("train", torch.arange(1)).shape[1:]
        about |= problem.objective.metadata()
        about |= {"task": source, "outputs": list(own), "shape": list(shape)}
        if classes := problem.objective.answers(problem.partition):
            about |= {"classes": classes, **({"told": list(classes)} if self.data.contexts else {})}
        return finish(problem, theta, masks, own, self.settings, about), metadata["seen"]


@torch.no_grad()
def predict(
    module: nn.Module, data: Data, split: str, index: Tensor | None = None, batch: int = 500
) -> Tensor:
    """Outputs of a plain module on samples of a split, all of them by default, ``[S, ...]`` on the CPU."""
    device = device_of(module)
    samples = torch.arange(len(data.split(split))) if index is None else index
    return torch.cat([module(data.inputs(split, i, device=device)).cpu() for i in samples.split(batch)])
