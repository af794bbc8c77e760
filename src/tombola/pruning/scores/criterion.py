"""Criteria: what they read of a ticket, its gradients too, and from that a score per weight.

Shape letters: N weights in scope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch
from tombola._utils.errors import PruningError, UsageError
from tombola._utils.rng import drawn_from
from tombola._utils.spec import Spec
from tombola.masks.layout import Layout


class PruningContext(Protocol):
    """Ticket k in the state that is about to be pruned.

    Weights are flat vectors ``[N]`` over the scope, zero outside the mask; batches are numbered from 0.
    """

    @property
    def scope(self) -> Layout:
        """Names and shapes of the layers in the flat vectors."""

    @property
    def weights_N(self) -> Tensor:
        """The trained weights ``m_k ⊙ θ``, without gradients."""

    @property
    def start_N(self) -> Tensor:
        """The weights at the start of this round."""

    @property
    def mask_N(self) -> Tensor:
        """``m_k``, boolean."""

    @property
    def moved_N(self) -> Tensor | None:
        """``−Σ_t g_t ⊙ θ_t`` over the training steps; only where the criterion asks for it."""

    def loss(self, weights_N: Tensor, batch: int) -> Tensor:
        """``L(f(x; weights), y)`` on a batch of ``d_k``, differentiable in the weights, twice."""

    def inputs(self, batch: int) -> Batch:
        """Inputs of a batch of ``d_k``."""

    def example(self) -> Batch:
        """One input ``[1, ...]``, of which only shape and dtype matter."""

    def read(self, outputs: Any) -> Tensor:
        """The part of the network's outputs that the loss is of."""

    def network(self) -> nn.Module:
        """A plain copy of the backbone that holds ``m_k ⊙ θ``; whoever asks may do with it as they like."""

    def generator(self) -> torch.Generator:
        """A generator of this ticket and round."""


Score = Callable[[PruningContext], Tensor]


@dataclass(frozen=True)
class Criterion(Spec):
    """A named score, checked; written NAME, or NAME:N where it reads N batches instead of its usual number.

    Attributes:
        name: as in `tombola.scoring.CRITERIA`.
        score: from a `PruningContext` to scores ``[N]``, low = prune first; a criterion that reads data gets
            the number of batches as well.
        batches: how many batches of the ticket's data it reads; 0 if it reads none.
        trajectory: whether it needs ``moved_N``.
        zeros: whether a layer of zeros is an answer. To magnitude it is: a weight of zero is as small as
            can be, and if nothing is left of the layer that is a `LayerCollapse`. Everywhere else it says
            that no signal arrived, and the order of the flat vector would choose.
    """

    name: str
    score: Callable[..., Tensor]
    batches: int = 0
    trajectory: bool = False
    zeros: bool = False
    # Batches that the name alone stands for; by default ``batches``.
    usual: int = field(default=-1, repr=False)

    def __post_init__(self) -> None:
        if self.usual < 0:
            object.__setattr__(self, "usual", self.batches)
        if self.batches < min(self.usual, 1):
            raise UsageError(f"{self.name} reads at least 1 batch: got {self.batches}")
        object.__setattr__(self, "form", self.name + ("[:{batches}]" if self.usual else ""))

    def __str__(self) -> str:
        return self.name if self.batches == self.usual else f"{self.name}:{self.batches}"

    def __call__(self, context: PruningContext) -> Tensor:
        """The scores ``[N]``, on the CPU; PyTorch's global generator is afterwards as it was before.

        Values outside the mask mean nothing and are not looked at.

        Raises:
            PruningError: no tensor ``[N]``, or a layer has scores that are not finite, or only zeros; the
                message names it.
        """
        with drawn_from(0, "score", self.name):
            scores_N = self.score(context, self.batches) if self.batches else self.score(context)
        if not isinstance(scores_N, Tensor) or scores_N.shape != (context.scope.size,):
            got = list(scores_N.shape) if isinstance(scores_N, Tensor) else type(scores_N).__name__
            raise PruningError(
                f"the score {self.name} gives {got}, and one number per weight in scope is needed: a tensor "
                f"[{context.scope.size}]"
            )
        scores_N = scores_N.detach().cpu()
        self._check(scores_N, context)
        return scores_N

    def _check(self, scores_N: Tensor, context: PruningContext) -> None:
        names, sizes = context.scope.names, context.scope.sizes
        parts = zip(names, scores_N.split(sizes), context.mask_N.cpu().split(sizes), strict=True)
        for layer, scores, mask in parts:
            kept = scores[mask]
            if not bool(kept.isfinite().all()):
                raise PruningError(
                    f"{self.name} scores of {layer} are NaN or infinite: lower the learning rate, or check "
                    "data and loss"
                )
            if not self.zeros and len(kept) and not bool(kept.any()):
                more = f", read more batches ({self.name}:N)" if self.batches else ""
                raise PruningError(
                    f"{self.name} scores of {layer} are all zero, so there is nothing to choose by: train "
                    f"before pruning (T){more}, or exclude the layer"
                )


def needs_trajectory(score: Score) -> bool:
    """True if a score reads ``moved_N``; a plain function does not."""
    return isinstance(score, Criterion) and score.trajectory


def gradient(context: PruningContext, batch: int) -> Tensor:
    """``m ⊙ ∇_θ L(f(x; m ⊙ θ), y)`` of one batch, ``[N]``: zero outside the mask (Eq. 6 of RTL)."""
    weights_N = context.weights_N.detach().clone().requires_grad_()
    (g_N,) = torch.autograd.grad(context.loss(weights_N, batch), weights_N)
    return g_N.masked_fill(~context.mask_N, 0)


def mean_gradient(context: PruningContext, batches: int) -> Tensor:
    """Their mean over the first batches, each batch counted alike, ``[N]``."""
    total_N = torch.zeros_like(context.weights_N)
    for batch in range(batches):
        total_N += gradient(context, batch)
    return total_N / batches
