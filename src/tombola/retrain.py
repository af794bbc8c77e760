"""Algorithm 2 of RTL (arXiv 2601.22141): joint retraining of all tickets on shared weights.

Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tombola.function import Theta
from tombola.masks import MaskSet
from tombola.problem import Problem, finite, set_rate
from tombola.stage import Stage

Form = Literal["sequential", "simultaneous"]


def retrain(
    problem: Problem,
    theta0: Theta,
    masks: MaskSet,
    steps: int,
    *,
    form: Form = "sequential",
    tickets: Sequence[int] | None = None,
    purpose: str = "retrain",
    save_every: int = 50,
    stage: Stage | None = None,
) -> Theta:
    """Train ``θ`` under frozen masks; returns it, theta0 keeps its bits.

    ``sequential`` is the paper's: one batch of one ticket after another,
    ``θ ← θ − η (∇_θ L(f(x^k; m_k ⊙ θ), y^k) ⊙ m_k)`` (Eq. 6, 7). ``simultaneous`` takes the gradients
    of all tickets at the same θ, sums them (each is zero outside its mask), and steps once.

    Args:
        problem: f, data, partition, objective, recipe.
        theta0: where training starts.
        masks: the frozen masks ``m_1 .. m_K``.
        steps: batches per ticket: the paper's epochs × M, with M = max_k M_k batches in the largest
            subset; smaller subsets begin again (cyclic repetition).
        form: ``sequential`` or ``simultaneous``.
        tickets: train only these (all by default).
        purpose: names the data order.
        save_every: batches per ticket between two saved states.
        stage: where progress, records and states go.
    """
    stage, m = stage or Stage(), masks.masks_KN
    turns = list(range(len(masks)) if tickets is None else tickets)
    groups = [[k] for k in turns] if form == "sequential" else [turns]
    theta, start = theta0.clone(len(masks)), 0
    if (saved := stage.load()) is not None:
        theta, start = Theta.from_tensors(_part(saved[0], "theta.")), saved[1]["step"]
        problem.seen = saved[1]["seen"]
    optimizer = problem.recipe.build(theta.leaves())
    if saved is not None:
        optimizer.restore(_part(saved[0], "optimizer."))
    streams = {k: problem.stream(k, purpose) for k in turns}
    owned = [_any([problem.masks(theta, m[k], k) for k in group]) for group in groups]
    losses = torch.zeros(len(masks))
    problem.f.module.train()
    for b in range(start, steps):
        set_rate(optimizer, problem.recipe.rate(b, steps))
        for group, mask in zip(groups, owned, strict=True):
            optimizer.zero_grad()
            for k in group:
                losses[k] += problem.gradient(theta, m[k], k, streams[k], b)  # ∇_θ L ⊙ m_k
            optimizer.step(mask)  # θ ← θ − η Σ ∇_θ L ⊙ m_k, in the weights that the group owns
        if (b + 1) % save_every == 0 or b + 1 == steps:
            count = save_every if (b + 1) % save_every == 0 else steps % save_every
            for k in turns:
                loss = finite(float(losses[k]) / count, masks.names[k])
                stage.record(event=purpose, step=b + 1, ticket=masks.names[k], loss=loss)
            losses.zero_()
            stage.save(_state(theta, optimizer.tensors()), {"step": b + 1, "seen": problem.seen})
        stage.advance(b + 1, steps)
    return theta


def _any(masks: list[list[Tensor | None]]) -> list[Tensor | None]:
    """Entry by entry, what any of the tickets owns; None (everything) wins."""
    merged: list[Tensor | None] = []
    for entry in zip(*masks, strict=True):
        given = [mask for mask in entry if mask is not None]
        merged.append(torch.stack(given).any(0) if len(given) == len(entry) else None)
    return merged


def _state(theta: Theta, optimizer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        **{f"theta.{name}": t for name, t in theta.tensors().items()},
        **{f"optimizer.{name}": t for name, t in optimizer.items()},
    }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
