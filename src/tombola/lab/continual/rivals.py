"""What can be done with tasks that arrive one by one, each as a composition of parts that are there.

A rival is a few answers: what the first task finds, under which policy of `tombola.tickets.growth` the
others are added, and by which masks. Who shares all weights in turn trains Algorithm 2 one ticket at a time.
None has a loop of its own.

Shape letters: K tasks, N weights in scope.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from tombola import api
from tombola._utils.batch import Batch
from tombola._utils.torch_state import in_mode
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline
from tombola.objectives import Objective
from tombola.runs.cache import StageCache
from tombola.settings import Settings
from tombola.tickets.finish import finish
from tombola.tickets.growth import Policy, grow, search_changes
from tombola.tickets.model import TicketModel
from tombola.tickets.quality import whole
from tombola.training.joint import train_jointly
from tombola.training.model import Params, parameter_of
from tombola.training.trainer import Problem, TicketBatch

Models = Mapping[str, TicketModel]  # who answers each task that has arrived


@dataclass(frozen=True)
class Arrivals:
    """K tasks in the order in which they arrive, and the network that is to serve them.

    ``settings`` have one sparsity: the share of all weights that a ticket of its own does not keep. Its ``T``
    and ``steps`` are the budget of a task.
    """

    backbone: nn.Module
    objective: Objective
    data: Data
    partition: Partition
    settings: Settings
    seed: int
    order: Sequence[int]

    @property
    def names(self) -> list[str]:
        """The tasks, in their order."""
        return [self.partition.names[k] for k in self.order]

    def task(self, name: str) -> Data:
        """The data of one task."""
        k, data = self.partition.names.index(name), self.data
        parts: dict[str, Any] = {
            s: data.split(s).take(self.partition.members[s][:, k].nonzero()[:, 0]) for s in SPLITS
        }
        return replace(data, **parts, contexts=None)

    @cached_property
    def pipeline(self) -> Pipeline:
        """All tasks at once."""
        given = self.backbone, self.objective, self.data, self.partition, self.settings, self.seed
        return Pipeline(*given, StageCache("no"))

    @cached_property
    def steps(self) -> int:
        """Training steps of a task, search and training together."""
        changes = search_changes(self.settings, self.pipeline.f.scope.size, self.pipeline.targets("own")[0])
        return int(changes["T"]) + self.settings.steps


@dataclass(frozen=True)
class Rival:
    """A composition.

    Attributes:
        summary: one line.
        run: from arrivals to the models after each of them; those that need all tasks at once give one.
        source: where it comes from.
    """

    summary: str
    run: Callable[[Arrivals], Iterator[Models]]
    source: str = ""


# -- a ticket for each task --------------------------------------------------------------------------------


def grown(
    arrivals: Arrivals,
    policy: Policy = "reuse",
    first: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Iterator[Models]:
    """A ticket after another under a policy; ``changes`` are settings of all, ``first`` of the first."""
    name, *others = arrivals.names
    f, s = arrivals.pipeline.f, arrivals.settings
    how = {**search_changes(s, f.scope.size, arrivals.pipeline.targets("own")[0], policy), **changes}
    data, objective, seed = arrivals.task(name), arrivals.objective, arrivals.seed
    settings = replace(s, **{**how, **(first or {})})
    given = arrivals.backbone, objective, data, whole(data, name)
    options: dict[str, Any] = {"settings": settings, "seed": seed, "progress": False, "parallel": "no"}
    tickets = api.find("rtl", *given, **options)[0].tickets
    yield dict.fromkeys(tickets.names, tickets)
    options = {"settings": replace(s, **how), "seed": seed, "policy": policy, "sparsity": s.sparsity[0]}
    for name in others:
        tickets = grow(tickets, name, arrivals.task(name), objective, **options)
        yield dict.fromkeys(tickets.names, tickets)


# -- one network that is trained on one task after another ---------------------------------------------------


def in_turn(
    arrivals: Arrivals, weighed: Callable[[Objective, Problem, Params, int], Objective] | None = None
) -> Iterator[Models]:
    """All weights are trained on each task in turn, an output layer for each (Algorithm 2 of one ticket).

    ``weighed`` gives the objective of the tasks that follow, once one has been trained.
    """
    p, names = arrivals.pipeline, arrivals.names
    problem, masks = p.problem("own", arrivals.settings.train), MaskSet.dense(p.f.scope, p.partition.names)
    theta = p.theta0.clone(len(masks))
    for arrived, k in enumerate(arrivals.order, 1):
        theta = train_jointly(problem, theta, masks, arrivals.steps, tickets=[k], purpose=f"task {k}")
        here = copy.copy(theta)
        here.buffers = dict(theta.buffers)
        tickets = finish(problem, here, masks, sorted(arrivals.order[:arrived]), arrivals.settings, {})
        yield dict.fromkeys(names[:arrived], tickets)
        if weighed is not None:
            problem.objective = weighed(problem.objective, problem, theta, k)


# Of each task for F; λ, between 30 and 300, which are level on validation data of permuted_mnist.
SAMPLES, STRENGTH = 200, 100.0


def elastic(objective: Objective, problem: Problem, theta: Params, k: int) -> Objective:
    """An objective that holds weights back by how much task k needs them (EWC, arXiv 1612.00796, Eq. 3).

    ``L(θ) + λ/2 Σ_i F_i (θ_i − θ*_i)²`` with the diagonal F of the Fisher information of task k, the mean of
    squared gradients of the loss of single samples. One that is held back already is held back by both.
    """
    f, held, plain = problem.f, copy.copy(objective), vars(objective).get("plain", objective)
    parts = ((f.scope, theta.weights_N), (f.shared, theta.shared_R))
    need = [torch.zeros_like(flat) for _, flat in parts]
    unweighed = replace(problem, objective=plain)
    with in_mode(f.module, training=False):  # a norm has no statistics of one sample
        for one in _single(unweighed, k):
            gradients = torch.autograd.grad(unweighed.loss(theta, None, one), [flat for _, flat in parts])
            for total, g in zip(need, gradients, strict=True):
                total += g**2 / SAMPLES
    star = {n: t.detach().clone() for layout, flat in parts for n, t in layout.unflatten(flat).items()}
    fisher = {
        n: t
        for (layout, _), total in zip(parts, need, strict=True)
        for n, t in layout.unflatten(total).items()
    }

    def loss_of(network: nn.Module, x: Batch, targets: Tensor, k: int) -> Tensor:
        away = [(fisher[n] * (parameter_of(network, n) - star[n]) ** 2).sum() for n in fisher]
        return objective.loss_of(network, x, targets, k) + STRENGTH / 2 * torch.stack(away).sum()

    vars(held).update(loss_of=loss_of, plain=plain)
    return held


def _single(problem: Problem, k: int) -> Iterator[TicketBatch]:
    """Training samples of a task, one by one; they are not counted as training."""
    stream, seen = problem.stream(k, "fisher"), problem.samples_seen
    batches = -(-SAMPLES // problem.config.batch_size)
    drawn = problem.draw((k, stream, i) for i in range(batches))
    ones = (
        b._replace(x=x, targets=y)
        for b in drawn
        for x, y in zip(b.x.split(1), b.targets.split(1), strict=True)
    )
    yield from islice(ones, SAMPLES)
    problem.samples_seen = seen


# -- all tasks at once --------------------------------------------------------------------------------------


def at_once(arrivals: Arrivals, method: str) -> Iterator[Models]:
    """A method that sees all tasks together (`tombola.methods.table`)."""
    a, s = arrivals, arrivals.settings
    given = a.backbone, a.objective, a.data, a.partition
    found = api.find(method, *given, settings=s, seed=a.seed, progress=False)[0]
    yield {name: model for model in found.models for name in model.names}


def multi_head(arrivals: Arrivals) -> Iterator[Models]:
    """All weights for all tasks together, with an output layer for each."""
    p = arrivals.pipeline
    problem, masks = p.problem("own", arrivals.settings.train), MaskSet.dense(p.f.scope, p.partition.names)
    theta = train_jointly(problem, p.theta0, masks, arrivals.steps)
    tickets = finish(problem, theta, masks, range(len(masks)), arrivals.settings, {})
    yield dict.fromkeys(tickets.names, tickets)


def dense_each(arrivals: Arrivals) -> Iterator[Models]:
    """A network for each task, nothing pruned, nothing shared."""
    p, models = arrivals.pipeline, dict[str, TicketModel]()
    problem, masks = p.problem("own", arrivals.settings.train), MaskSet.dense(p.f.scope, p.partition.names)
    for k in arrivals.order:
        theta = train_jointly(problem, p.theta0, masks, arrivals.steps, tickets=[k])
        models[p.partition.names[k]] = finish(problem, theta, masks, [k], arrivals.settings, {})
        yield dict(models)


DENSE = {"sparsity": (0.0,), "callback": "", "schedule": "one_shot"}
PRUNED: dict[str, Any] = {"callback": "", "score": "magnitude"}

RIVALS: dict[str, Rival] = {
    "grow": Rival("a learned mask for each task, which may read weights of others and moves none", grown),
    "grow_free": Rival("a learned mask for each task over weights of its own", partial(grown, policy="free")),
    "wsn": Rival(
        "as grow, with the same share of every layer",
        partial(grown, selection="layer"),
        "WSN, Kang et al., ICML 2022",
    ),
    "packnet": Rival(
        "every task reads all weights of those before, and keeps the largest of the rest",
        partial(grown, policy="all", **PRUNED),
        "PackNet, Mallya & Lazebnik, arXiv 1711.05769",
    ),
    "supsup": Rival(
        "a mask for each task over random weights that never move",
        partial(grown, policy="frozen", callback="learned:0.1:frozen"),
        "SupSup, Wortsman et al., arXiv 2006.14769",
    ),
    "piggyback": Rival(
        "a mask for each task over the weights of the first, trained dense",
        partial(grown, policy="frozen", first=DENSE),
        "Piggyback, Mallya et al., arXiv 1801.06519",
    ),
    "finetune": Rival("all weights are trained on one task after another", in_turn),
    "ewc": Rival(
        "the same, held back where earlier tasks need weights",
        partial(in_turn, weighed=elastic),
        "EWC, Kirkpatrick et al., arXiv 1612.00796",
    ),
    "joint": Rival("RTL: tickets of all tasks at once", partial(at_once, method="rtl"), "arXiv 2601.22141"),
    "joint_learned": Rival(
        "the same with learned masks", partial(at_once, method="rtl_learned"), "arXiv 2601.22141"
    ),
    "multi_head": Rival("one dense network for all tasks at once", multi_head),
    "separate": Rival("a dense network for each task", dense_each),
}
APART = ("grow_free", "packnet")  # whose tickets have all their weights, or a part of them, for themselves
WHOLE = ("finetune", "ewc", "multi_head", "separate")  # which prune nothing; sparsity sets their steps alone
