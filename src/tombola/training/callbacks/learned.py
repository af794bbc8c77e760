"""Learned masks: a score for every weight, trained by the straight-through estimator.

In every step the mask ``m`` holds the ``c`` largest scores, with c the exact count of the round, cut by the
selection and granularity of the search among the weights that the round began with. The forward pass is that
of ``m ⊙ θ``. With g the gradient of this product at every entry, kept or not, the scores follow
``∂L/∂s = g ⊙ θ`` by Adam, and the weights ``∂L/∂θ = g ⊙ m`` by the optimiser of the search; so a weight that
is left out may come back.

- ``free``: the weights are trained as well (WSN, Kang et al., ICML 2022).
- ``frozen``: they stay where the round began, and in Algorithm 2 too (edge-popup, Ramanujan et al., arXiv
  1911.13299; Piggyback, Mallya et al., arXiv 1801.06519; supermasks, Zhou et al., arXiv 1905.01067). What is
  not in scope (norms, biases, the output layer) is trained.

Scores begin at ``|θ|`` over its mean, so that the first mask is that of the largest weights and one rate
serves networks of any scale; they are new in every round. The papers begin with random or equal scores, and
edge-popup and WSN keep the same share of every layer, which is a matter of ``selection`` here; Piggyback cuts
at a threshold, Zhou et al. draw masks. The rate of the scores falls as that of the weights.

Shape letters: N weights in scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola._utils.errors import UsageError
from tombola._utils.spec import Spec
from tombola.masks.apply import straight_through
from tombola.masks.layout import Layout
from tombola.optim import MaskedOptimizer
from tombola.training.callbacks.base import Callback
from tombola.training.model import Params
from tombola.training.pruning_context import Pruner, TicketContext

WEIGHTS = ("free", "frozen")


@dataclass(frozen=True)
class Learned(Spec, Callback):
    """Masks that are learned.

    Attributes:
        lr: learning rate of the scores, whose mean is 1 at first.
        weights: ``free`` or ``frozen``.
    """

    form = "learned:{lr}[:{weights}]"
    lr: float
    weights: str = "free"

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf") or self.weights not in WEIGHTS:
            raise UsageError(
                f"the rate of the scores is positive, weights are {' or '.join(WEIGHTS)}: got {self.lr}, "
                f"{self.weights}"
            )

    def on_ticket(self, context: TicketContext, pruner: Pruner, keep: int, T: int) -> Scores:  # noqa: ARG002
        """Learn the mask while the weights train, or stay."""
        return Scores(self, context, pruner, keep)


@dataclass
class Scored(Params):
    """Weights whose mask is learned: the product with it has the straight-through gradient."""

    scores_N: Tensor
    frozen: bool

    def product(self, scope: Layout, mask_N: Tensor) -> dict[str, Tensor]:
        """``m ⊙ θ`` by name; frozen weights get no gradient, so that no optimiser moves them."""
        weights_N = self.weights_N.detach() if self.frozen else self.weights_N
        return straight_through(scope, weights_N, mask_N, self.scores_N)


class Scores:
    """Learns the mask of a ticket in training (a `tombola.training.trainer.StepCallback`).

    Args:
        rule: the rate of the scores, and whether the weights are trained.
        context: the ticket in training; it gets a mask of its own, which always has ``keep`` weights.
        pruner: how scores are cut.
        keep: weights that are kept.
    """

    def __init__(self, rule: Learned, context: TicketContext, pruner: Pruner, keep: int) -> None:
        self.rule, self.context, self.pruner, self.keep = rule, context, pruner, keep
        theta = context.theta
        size_N = theta.weights_N.detach().abs()
        mean = size_N[context.first_N].mean().clamp(min=torch.finfo(size_N.dtype).tiny)
        self.scores_N = (size_N / mean).requires_grad_()
        self.optimizer = torch.optim.Adam([self.scores_N], lr=rule.lr)
        parts = theta.weights_N, theta.shared_R, theta.private, theta.buffers
        context.theta = Scored(*parts, self.scores_N, rule.weights == "frozen")
        self.before_N = self._cut()
        context.mask_N = self.before_N.to(context.first_N.device, copy=True)  # that of the job stays

    def __call__(self, step: int, theta: Params, optimizer: MaskedOptimizer) -> bool:  # noqa: ARG002
        """Step the scores and cut the mask anew; the training never ends here."""
        course = optimizer.param_groups[0]["lr"] / optimizer.defaults["lr"]
        self.optimizer.param_groups[0]["lr"] = self.rule.lr * course
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.context.mask_N.copy_(self._cut())
        return False

    def _cut(self) -> Tensor:
        """The mask of the largest scores; a layer may be empty for a while, as its weights may come back."""
        c, scores_N = self.context, self.scores_N.detach()
        return self.pruner.cut(c, c.first_N, scores_N, self.keep, allow_collapse=True)

    def metadata(self) -> dict[str, Any]:
        """The number of weights that the mask has now and did not have at first."""
        new_N = self.context.mask_N.cpu() & ~self.before_N
        return {"event": "learned", "changed": int(new_N.count_nonzero())}
