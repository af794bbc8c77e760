"""Early-Bird: end the training once the mask that would be drawn stands still (arXiv 1909.11957).

After every epoch the mask is drawn as if the training ended there. The distance of two such masks is the
share of their units (weights, or channels where channels are pruned) in which they differ, and the training
ends when it is below a threshold between successive epochs several times in a row. The paper: threshold 0.1,
five times, channels by the scale of their batch norm (`tombola.scoring.gamma`), whose weights go on training.
Trainings of fewer than twenty epochs draw a mask after every twentieth of their steps instead.

Two masks of n units, of which k are kept, differ in at most ``2 min(k, n − k)`` units. The paper divides
by n; then at 95% sparsity no two masks would ever be further apart than 0.1. Here the distance is divided by
that greatest one, so that 1 means nothing in common at any sparsity; at 50% both are the same.

Shape letters: N weights in scope, U units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola._utils.errors import UsageError
from tombola._utils.spec import Spec
from tombola.masks.layout import Layout
from tombola.optim import MaskedOptimizer
from tombola.pruning import transposed
from tombola.pruning.granularity import Block, Channel, members, parse
from tombola.training.callbacks.base import Callback
from tombola.training.model import Params
from tombola.training.pruning_context import Pruner, TicketContext

SHORTEST = 20  # masks of a training of few epochs are drawn so often, instead of after every epoch
Draw = Callable[[], Tensor]  # the mask that pruning would give now


def distance(a_U: Tensor, b_U: Tensor) -> float:
    """Units in which two masks differ over the most that could: 0 equal, 1 as far as can be.

    >>> distance(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
    0.5
    """
    kept = int(a_U.count_nonzero()) + int(b_U.count_nonzero())
    most = min(kept, 2 * len(a_U) - kept)
    return int((a_U ^ b_U).count_nonzero()) / most if most else 0.0


def units_of(mask_N: Tensor, scope: Layout, granularity: str, turned: dict[str, int]) -> Tensor:
    """The units of a mask, boolean ``[U]``: weights, or groups with any weight left.

    >>> units_of(torch.tensor([True, False, False, False]), Layout(("w",), ((2, 2),)), "channel", {}).tolist()
    [True, False]
    """
    kind = parse(granularity)
    if not isinstance(kind, Channel | Block):
        return mask_N
    parts = zip(mask_N.split(scope.sizes), members(kind, scope, turned), strict=True)
    return torch.cat([part[at_Us].any(1) for part, at_Us in parts])


@dataclass(frozen=True)
class EarlyBird(Spec, Callback):
    """End the training of a ticket once its mask stands still.

    Attributes:
        threshold: of the distance, in (0, 1].
        patience: distances below it in a row.
        every: steps between two masks; by default an epoch of the ticket, or a twentieth of the training
            where that is shorter.
    """

    form = "early_bird:{threshold}:{patience}[:{every}]"
    threshold: float
    patience: int
    every: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"the threshold is a distance in (0, 1]: got {self.threshold}")
        if self.patience < 1 or (self.every is not None and self.every < 1):
            raise UsageError(f"patience and every are at least 1: got {self.patience}, {self.every}")

    def on_ticket(self, context: TicketContext, pruner: Pruner, keep: int, T: int) -> StandStill:
        """Draw the mask that pruning would give now; a layer may be empty in it."""
        return StandStill(
            self, context, lambda: pruner(context, keep, allow_collapse=True), pruner.granularity, T
        )


class StandStill:
    """The masks drawn along one training (a `tombola.training.trainer.StepCallback`).

    Args:
        rule: threshold, how many distances in a row, and how often.
        context: the ticket in training.
        draw: the mask that pruning would give now; ``m_k`` is not changed by it.
        granularity: what is counted.
        T: steps that the training may have.
    """

    def __init__(self, rule: EarlyBird, context: TicketContext, draw: Draw, granularity: str, T: int) -> None:
        self.rule, self.draw, self.granularity, self.T = rule, draw, granularity, T
        epoch = context.problem.batches(context.k)
        self.every = rule.every or min(epoch, max(T // SHORTEST, 1))
        self.scope, self.turned = context.scope, transposed(context.problem.f.module)
        self.last_U: Tensor | None = None
        self.distances: list[float] = []
        self.steps = 0

    def __call__(self, step: int, theta: Params, optimizer: MaskedOptimizer) -> bool:  # noqa: ARG002
        """Whether the masks of the last epochs are close enough to each other."""
        self.steps = step
        if step % self.every:
            return False
        mask_U = units_of(self.draw(), self.scope, self.granularity, self.turned)
        if self.last_U is not None:
            self.distances.append(distance(mask_U, self.last_U))
        self.last_U = mask_U
        recent = self.distances[-self.rule.patience :]
        return len(recent) == self.rule.patience and max(recent) < self.rule.threshold

    def metadata(self) -> dict[str, Any]:
        """Steps trained, steps there might have been, the share saved, and the distances."""
        saved = 1 - self.steps / self.T if self.T else 0.0
        near = [round(d, 6) for d in self.distances]
        return {
            "event": "early_bird",
            "steps": self.steps,
            "of": self.T,
            "saved": round(saved, 6),
            "distances": near,
        }
