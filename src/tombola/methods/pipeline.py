"""From a backbone, data and a partition to tickets: the stages of every method, each done once.

A method (`tombola.methods.table`) says whose masks, which task, and whether weights are shared. The pipeline
turns that into stages: the rewind point, the search (Algorithm 1), the training (Algorithm 2), and the
tickets with their norm statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tombola._utils import batch
from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.device import device_of
from tombola._utils.errors import warn
from tombola.data.dataset import Data
from tombola.masks.maskset import MaskSet
from tombola.methods.rounds import Rounds, later, rounds_to
from tombola.methods.setup import DataView, Setup
from tombola.pruning import scores
from tombola.pruning.schedules import kept
from tombola.runs.stages import Stage, Work
from tombola.settings import TrainConfig
from tombola.tickets.finish import finish
from tombola.tickets.model import TicketModel
from tombola.training import rewind
from tombola.training.callbacks import rules
from tombola.training.callbacks.base import Callback
from tombola.training.callbacks.collapse import CollapseMonitor
from tombola.training.callbacks.similarity import SimilarityRecord
from tombola.training.joint import counts, train_jointly
from tombola.training.model import Params
from tombola.training.parallel.gradients import gradients_of
from tombola.training.pruning_context import Pruner
from tombola.training.rewind import StartWeights
from tombola.training.search import find_tickets
from tombola.training.trainer import Problem


@dataclass(frozen=True)
class Network:
    """One set of weights that Algorithm 2 trains.

    Attributes:
        stage: its name.
        view: what it is trained on.
        masks: of all tickets.
        ticket: the one that it is trained for; all together if None.
        start: where training starts, if not at the rewind point.
        config: another one than the settings'.
        further: batches per ticket more than the settings say.
        frozen: whether weights in scope stay as they start.
    """

    stage: Stage
    view: DataView
    masks: MaskSet
    ticket: int | None = None
    start: Params | None = None
    config: TrainConfig | None = None
    further: int = 0
    frozen: bool = False

    @property
    def tickets(self) -> list[int]:
        """The tickets that it has."""
        return list(range(len(self.masks))) if self.ticket is None else [self.ticket]


class Pipeline(Setup):
    """The stages of one task; each is done once, whichever methods ask."""

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

        stage, K = self._rewind_stage(view), len(dense)
        work = Work(1, K * steps, problem.config.batch_size, stand_in=lambda: _untrained(self.theta0, K))
        found, _ = self.cache.get_or_compute(stage, compute, self.key(str(stage)), work)
        return Params.from_tensors(found, self.f.device)

    def _rewind_stage(self, view: DataView) -> Stage:
        own = self.variant if self.settings.adapters else ""  # weights of another network
        return Stage("rewind", own, self.beginning(view), conditioned=self.conditioned)

    # -- stages: the search, Algorithm 1 ----------------------------------------------------------

    def masks(self, view: DataView, sparsity: float) -> MaskSet:
        """The masks of a search at one of the sparsities."""
        return self.search(view, sparsity)[0]

    def search(self, view: DataView, sparsity: float) -> tuple[MaskSet, StartWeights]:
        """The masks of a search at a sparsity, and where its tickets go on (`tombola.training.rewind`)."""
        s = self.settings
        problem, theta0 = self.problem(view, s.search), self.rewind_point(view)
        rounds = rounds_to(s, self.f.scope.size, self.targets(view), sparsity)
        callbacks, pruner = self._callbacks(), self._pruner(s.score, view)
        before, start = self._before(view, sparsity, rounds, problem, theta0, callbacks)
        T = self.budget(view, s.T)

        def compute(checkpoint: Checkpoint) -> State:
            masks = find_tickets(
                problem,
                theta0,
                before,
                rounds.counts,
                T,
                pruner=pruner,
                rewind=start,
                first_round=rounds.done,
                later=later(s, T) if s.rewinding == "fine_tune" else None,
                callbacks=callbacks,
                train_loop=self.train_loop,
                map_tickets=self.cache.parallel,
                checkpoint=checkpoint,
            )
            _warn_of_one_mask(masks, T, "" if pruner.batches else str(s.score))
            states = [callback.state() for callback in callbacks]
            found = {"seen": problem.samples_seen, "callbacks": states}
            return {"masks": masks.pack(), **start.tensors()}, found

        K, count = len(before), rounds.counts[-1] if rounds.counts else next(iter(before.counts.values()))
        work = Work(
            len(rounds.counts) * K,
            T,
            s.search.batch_size,
            at_once=K,
            scored=pruner.batches,
            stand_in=lambda: (self._any_masks(before.names, count) | start.tensors(), {}),
        )
        tensors, _ = self.cache.get_or_compute(self._stage("search", view, sparsity), compute, work=work)
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

        K, read = len(names), self._pruner(self.settings.first, view).batches
        work = Work(
            K, 0, problem.config.batch_size, K, read, stand_in=lambda: (self._any_masks(names, count), {})
        )
        tensors, _ = self.cache.get_or_compute(self._stage("first", view, sparsity), compute, work=work)
        return MaskSet.unpack(self.f.scope, names, tensors["masks"])

    def _any_masks(self, names: Sequence[str], count: int) -> dict[str, Tensor]:
        """Masks of so many weights, the same for all tickets, as a search's result holds them."""
        mask_N = torch.arange(self.f.scope.size) < count
        return {"masks": MaskSet(self.f.scope, dict.fromkeys(names, mask_N)).pack()}

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
            return [int(self.masks("own", s).union().count_nonzero()) for s in sparsities]
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

    def train(self, network: Network) -> tuple[TicketModel, int]:
        """The tickets of a network after Algorithm 2, and samples seen."""
        theta, seen, problem = self.weights(network)
        about = self.metadata(
            str(network.stage).removeprefix("train-"), network.view, network.tickets, problem
        )
        return finish(problem, theta, network.masks, network.tickets, self.settings, about), seen

    def weights(self, network: Network) -> tuple[Params, int, Problem]:
        """The weights of a network after Algorithm 2, samples seen, and what it was trained on."""
        problem, s = self.problem(network.view, network.config or self.settings.train), self.settings
        masks, tickets = network.masks, network.tickets
        frozen_N = torch.ones_like(masks.masks_KN[0], device=self.f.device)
        problem.frozen_N = frozen_N if network.frozen else None
        steps = self.budget(network.view, s.steps + network.further)
        start = network.start or self.rewind_point(network.view)
        # The training of a dense network depends on no search, so runs may share it.
        key = self.key("dense-0.0", steps, s.form) if network.stage.method == "dense" else ""

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

        B, each = problem.config.batch_size, counts(problem, steps, s.shares)  # type: ignore[arg-type]
        work = Work(
            1,
            sum(each[k] for k in tickets),
            B,
            passes=len(tickets) * s.statistics * B,
            stand_in=lambda: _untrained(start, len(masks)),
        )
        tensors, facts = self.cache.get_or_compute(network.stage, compute, key, work)
        return Params.from_tensors(tensors, self.f.device), facts["seen"], problem


def _warn_of_one_mask(masks: MaskSet, T: int, blind: str) -> None:
    """Say so where a search has told no tickets apart; ``blind`` is a score that reads no data."""
    m = masks.masks_KN
    if len(m) < 2 or bool(m[0].all()) or not torch.equal(m, m[:1].expand_as(m)):
        return
    why = f"in {T} steps none became important to one alone: give a larger T, or learning rate"
    if not T:
        reads = f"{blind} reads no data" if blind else "the score sees no difference in their data"
        why = f"nothing is trained before pruning (T=0), and {reads}: give T, or a score that does"
    warn(f"all {len(masks)} tickets have the same mask: {why}")


def _untrained(theta: Params, tickets: int) -> State:
    return theta.clone(tickets).tensors(), {"seen": 0}


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
