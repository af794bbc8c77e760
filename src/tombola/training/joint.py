"""Algorithm 2 of RTL (arXiv 2601.22141): joint retraining of all tickets on shared weights.

Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal, get_args

import torch
from torch import Tensor

from tombola._utils.checkpoint import Checkpoint, part
from tombola._utils.errors import UsageError
from tombola.masks.maskset import MaskSet
from tombola.optim import MaskedOptimizer
from tombola.pruning.shares import apportion
from tombola.training.model import Params
from tombola.training.parallel.gradients import Gradients
from tombola.training.trainer import Problem, finite, set_rate

Form = Literal["sequential", "simultaneous"]
Shares = Literal["equal", "size"]


def train_jointly(
    problem: Problem,
    theta0: Params,
    masks: MaskSet,
    steps: int,
    *,
    form: Form = "sequential",
    shares: Shares = "equal",
    tickets: Sequence[int] | None = None,
    purpose: str = "retrain",
    save_every: int = 50,
    gradients: Gradients | None = None,
    checkpoint: Checkpoint | None = None,
) -> Params:
    """Train ``θ`` under frozen masks; returns it, theta0 keeps its bits.

    ``sequential`` is the paper's: one batch of one ticket after another,
    ``θ ← θ − η (∇_θ L(f(x^k; m_k ⊙ θ), y^k) ⊙ m_k)`` (Eq. 6, 7). ``simultaneous`` takes the gradients
    of all tickets at the same θ, sums them (each is zero outside its mask), and steps once.

    Args:
        problem: f, data, partition, objective, config.
        theta0: where training starts.
        masks: the frozen masks ``m_1 .. m_K``.
        steps: batches per ticket: the paper's epochs × M, with M = max_k M_k batches in the largest
            subset; smaller subsets begin again (cyclic repetition).
        form: ``sequential`` or ``simultaneous``.
        shares: ``equal``, as many batches for every ticket, or ``size``: the same sum, in proportion to the
            epochs of the tickets, as one network for all data would see them (``sequential`` only).
        tickets: train only these (all by default).
        purpose: names the data order: another word, other batches.
        save_every: batches per ticket between two saved states.
        gradients: where they come from: this process, or several (`tombola.training.parallel.gradients`).
        checkpoint: where progress, records and states go.

    Raises:
        UsageError: an unknown form or share, or masks of other tickets or weights than the problem's.
    """
    for name, given, known in (("form", form, Form), ("shares", shares, Shares)):
        if given not in get_args(known):
            raise UsageError(f"{name} is one of {', '.join(get_args(known))}: got {given!r}")
    if form == "simultaneous" and shares != "equal":
        raise UsageError('form="simultaneous" takes a batch of every ticket at each step: shares="equal"')
    problem.check(masks)
    gradients = gradients or Gradients(problem)
    checkpoint, m, names = checkpoint or Checkpoint(), masks.masks_KN.to(problem.f.device), masks.names
    turns = list(range(len(masks)) if tickets is None else tickets)
    groups = [[k] for k in turns] if form == "sequential" else [turns]
    theta, optimizer, start = _begin(problem, theta0.clone(len(masks)), checkpoint)
    trainable = [_any([problem.masks(theta, m[k], k) for k in group]) for group in groups]
    streams, losses = {k: problem.stream(k, purpose) for k in turns}, _Losses(names, problem.f.device)
    count = counts(problem, steps, shares)
    batches = problem.draw(
        (k, streams[k], i)
        for b in range(start, steps)
        for group in groups
        for i in _turn(b, steps, count[group[0]])
        for k in gradients.own(group)
    )
    problem.f.train()
    for b in range(start, steps):
        set_rate(optimizer, problem.config.rate(b, steps))  # η
        for group, mask in zip(groups, trainable, strict=True):  # ticket after ticket, or all at once
            for _ in _turn(b, steps, count[group[0]]):
                optimizer.zero_grad()
                for k in gradients.own(group):
                    losses.sums_K[k] += gradients.add(theta, m[k], next(batches), group)  # ∇_θ L ⊙ m_k
                gradients.join(theta, group)  # over processes, if there are several
                losses.count(group)
                optimizer.step(mask)  # θ ← θ − η Σ ∇_θ L ⊙ m_k, in the weights that the group owns
        if (b + 1) % save_every == 0 or b + 1 == steps:
            gradients.settle(theta, losses.sums_K)
            for k in filter(losses.counts.__getitem__, turns):  # who had a turn since
                checkpoint.record(event=purpose, step=b + 1, ticket=names[k], loss=losses.mean(k))
            checkpoint.save(lambda: _state(theta, optimizer), {"step": b + 1, "seen": problem.samples_seen})
        checkpoint.advance(b + 1, steps)
    return theta


def counts(problem: Problem, steps: int, shares: Shares) -> list[int]:
    """Batches of each ticket, ``K × steps`` in all and, if there are any, at least one."""
    K = len(problem.partition)
    if shares == "equal" or not steps:
        return [steps] * K
    sizes = [problem.objective.epoch_size(problem.partition, k) for k in range(K)]
    return apportion(sizes, [1] * K, [K * steps] * K, K * steps)


def _turn(b: int, steps: int, count: int) -> range:
    """The batches of a ticket in step b, spread evenly: where every ticket has as many, b alone."""
    return range(b * count // steps, (b + 1) * count // steps)


class _Losses:
    """The mean loss of each ticket since it was last asked for."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names, self.counts = names, [0] * len(names)
        self.sums_K = torch.zeros(len(names), device=device)

    def count(self, group: Sequence[int]) -> None:
        """Note that a batch of each of these has been added to the sums."""
        for k in group:
            self.counts[k] += 1

    def mean(self, k: int) -> float:
        """Of ticket k; it begins again."""
        mean = finite(float(self.sums_K[k]) / self.counts[k], self.names[k])
        self.sums_K[k], self.counts[k] = 0, 0
        return mean


def _any(masks: list[list[Tensor | None]]) -> list[Tensor | None]:
    """Entry by entry, what any of the tickets owns; None (everything) wins."""
    merged: list[Tensor | None] = []
    for entry in zip(*masks, strict=True):
        given = [mask for mask in entry if mask is not None]
        merged.append(reduce(torch.bitwise_or, given) if len(given) == len(entry) else None)
    return merged


def _begin(problem: Problem, theta: Params, checkpoint: Checkpoint) -> tuple[Params, MaskedOptimizer, int]:
    """Weights, optimiser and first step: new ones, or those of the state that the stage was left in."""
    if (saved := checkpoint.load()) is None:
        return theta, problem.config.build(theta.leaves()), 0
    tensors, metadata = saved
    theta = Params.from_tensors(part(tensors, "theta."), problem.f.device)
    problem.samples_seen = metadata["seen"]
    optimizer = problem.config.build(theta.leaves())
    optimizer.restore(part(tensors, "optimizer."))
    return theta, optimizer, metadata["step"]


def _state(theta: Params, optimizer: MaskedOptimizer) -> dict[str, Tensor]:
    """The state that `_begin` goes on from."""
    return {
        **{f"theta.{name}": t for name, t in theta.tensors().items()},
        **{f"optimizer.{name}": t for name, t in optimizer.tensors().items()},
    }
