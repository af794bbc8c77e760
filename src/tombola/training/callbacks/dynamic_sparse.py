"""Dynamic sparse training: masks that move while the weights train. SET and RigL.

Every N steps each layer drops the ``k`` smallest of its weights and grows as many elsewhere, with
``k = ⌊ζ/2 (1 + cos(π t / T)) · kept⌋``, so that every layer keeps its exact count (RigL, arXiv 1911.11134,
Section 3; its ``α`` is our ``ζ``, its ``T_end`` the end of the search). What grows:

- ``set``: random weights outside the mask (Mocanu et al., arXiv 1707.04780),
- ``rigl``: those with the largest ``|∇_θ L|``, by the gradient of all weights, the masked ones at zero.

A weight that grows begins at zero with moments of zero. One that is dropped and grown in the same move stays
as it was. As in RigL the share falls along a cosine, for both; SET's paper keeps it constant, drops the
smallest positive and the largest negative weights apart, and draws new weights at random instead of zero.
RigL replaces the training step by the move; here the move comes after the step, with a batch of its own that
is counted among the samples. After the search the last mask is frozen and trained on.

Shape letters: N weights in scope, n of a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola._utils.errors import UsageError
from tombola._utils.spec import Spec
from tombola.optim import MaskedOptimizer
from tombola.pruning import keep_top
from tombola.training.callbacks.base import Callback
from tombola.training.model import Params
from tombola.training.pruning_context import Pruner, TicketContext


def moved(mask_n: Tensor, size_n: Tensor, promise_n: Tensor, count: int) -> Tensor:
    """A layer's mask after a move, boolean ``[n]`` with as many True as before.

    Args:
        mask_n: the mask before.
        size_n: ``|θ|``; the ``count`` smallest in the mask are dropped.
        promise_n: the ``count`` largest among all that are then outside are grown.
        count: how many; no more than there are in the mask.

    >>> m = torch.tensor([True, True, False, False])
    >>> moved(m, torch.tensor([0.1, 0.9, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 2.0]), 1).tolist()
    [False, True, False, True]
    """
    rest_n = keep_top(size_n, int(mask_n.count_nonzero()) - count, mask_n)
    return rest_n | keep_top(promise_n, count, ~rest_n)


@dataclass(frozen=True)
class Moving(Spec, Callback):
    """Dynamic sparse training.

    Attributes:
        share: of each layer's mask that moves at first, in (0, 1).
        every: steps between two moves.
    """

    share: float
    every: int
    by_gradient: ClassVar[bool]

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.every < 1:
            raise UsageError(f"the share is in (0, 1), every at least 1 step: got {self.share}, {self.every}")

    def on_ticket(self, context: TicketContext, pruner: Pruner, keep: int, T: int) -> Moves:  # noqa: ARG002
        """Move the mask while it trains."""
        return Moves(self, context, T)


class SET(Moving):
    """Masks that grow at random places."""

    form, by_gradient = "set:{share}:{every}", False


class RigL(Moving):
    """Masks that grow where the gradient is largest."""

    form, by_gradient = "rigl:{share}:{every}", True


class Moves:
    """Moves the mask of a ticket in training (a `tombola.training.trainer.StepCallback`).

    Args:
        rule: how to grow, which share at first, how often.
        context: the ticket in training; its mask is changed in place, and stays of one size.
        T: steps of the training.
    """

    def __init__(self, rule: Moving, context: TicketContext, T: int) -> None:
        self.rule, self.context, self.T = rule, context, T
        self.generator = context.generator()
        self.moves = self.grown = 0

    def __call__(self, step: int, theta: Params, optimizer: MaskedOptimizer) -> bool:
        """Move if it is time; the training never ends here."""
        if step % self.rule.every or step >= self.T:
            return False
        before_N, sizes = self.context.mask_N.cpu().clone(), self.context.scope.sizes
        share = self.rule.share / 2 * (1 + math.cos(math.pi * step / self.T))
        parts = (before_N, theta.weights_N.detach().abs().cpu(), self._promise())
        layers = zip(*(part.split(sizes) for part in parts), strict=True)
        after_N = torch.cat([moved(m, w, g, int(share * int(m.count_nonzero()))) for m, w, g in layers])
        changed_N = (before_N ^ after_N).to(theta.weights_N.device)
        self.context.mask_N.copy_(after_N)
        theta.weights_N.data[changed_N] = 0
        for name, moment in optimizer.tensors().items():
            if name.startswith("0.") and moment.shape == changed_N.shape:  # of the weights in scope
                moment[changed_N] = 0
        self.moves += 1
        self.grown += int((after_N & ~before_N).count_nonzero())
        return False

    def _promise(self) -> Tensor:
        """The order of growth, ``[N]``, highest first."""
        if not self.rule.by_gradient:
            return torch.rand(self.context.mask_N.shape, generator=self.generator)
        weights_N = self.context.weights_N.clone().requires_grad_()
        (g_N,) = torch.autograd.grad(self.context.loss(weights_N, self.moves), weights_N)
        return g_N.abs().cpu()

    def metadata(self) -> dict[str, Any]:
        """The number of moves, and of weights that grew in all."""
        return {"event": "moved", "moves": self.moves, "grown": self.grown}
