"""Criteria of one line each: magnitude, random, movement, SNIP, Taylor. Shape letter: N weights in scope."""

from __future__ import annotations

import torch
from torch import Tensor

from tombola._utils.errors import PruningError
from tombola.pruning.scores.criterion import PruningContext, gradient, mean_gradient


def absolute(theta_N: Tensor) -> Tensor:
    """Absolute weights, ``[N]``."""
    return theta_N.detach().abs()


def magnitude(context: PruningContext) -> Tensor:
    """``s = |θ|`` of the trained weights, ``[N]`` (Algorithm 1 of RTL; Han et al., arXiv 1506.02626)."""
    return absolute(context.weights_N)


def uniform(theta_N: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform scores in [0, 1), ``[N]``, from the generator alone."""
    return torch.rand(theta_N.shape, generator=generator)


def random(context: PruningContext) -> Tensor:
    """The control that every criterion has to beat: other scores for every ticket and round, ``[N]``."""
    return uniform(context.weights_N, context.generator())


def away_from_zero(weights_N: Tensor, gradient_N: Tensor) -> Tensor:
    """The share of one training step in `movement`, ``−g_t ⊙ θ_t``, ``[N]``.

    >>> away_from_zero(torch.tensor([2.0, 2.0]), torch.tensor([-3.0, 0.5])).tolist()  # grows, shrinks
    [6.0, -1.0]
    """
    return -(gradient_N.detach() * weights_N.detach())


def movement(context: PruningContext) -> Tensor:
    """``s = −Σ_t g_t ⊙ θ_t``, ``[N]``: which weights move away from zero (Sanh et al., arXiv 2005.07683).

    A step of gradient descent makes ``|θ_i|`` larger where ``g_i θ_i < 0``. The paper learns the sum as a
    score beside the weights, with gradients for pruned weights too (straight-through), so that they may come
    back; here masks only shrink, and a pruned weight has no gradient. Its learning rate scales all scores
    alike and is left out. Without training steps in this round the sum is zero.
    """
    if context.moved_N is None:
        raise PruningError(
            "movement needs the sum over the training steps, which was not kept: ask for the criterion "
            "by its name (tombola.scoring.CRITERIA)"
        )
    return context.moved_N


def snip(context: PruningContext, batches: int = 1) -> Tensor:
    """``s = |g ⊙ θ|``, ``[N]``: how much the loss feels each connection (Lee et al., arXiv 1810.02340).

    The paper multiplies every weight by a connection ``c = 1`` and asks for ``|∂L / ∂c|``, which is
    ``|g ⊙ θ|`` with ``g = ∇_θ L``. It divides by the sum over all weights; that changes no order and is left
    out. Over several batches the gradients are averaged first, so that the score is the one of a large batch
    (norms still see each batch by itself). It is meant for untrained weights (``T = 0``) and one round.
    """
    return (mean_gradient(context, batches) * context.weights_N).abs()


def taylor(context: PruningContext, batches: int = 1) -> Tensor:
    """``s = mean_b (g_b ⊙ θ)²``, the squared change of the loss without a weight, to first order.

    Float64 ``[N]``: in float32 the squares of small products would be zero. Molchanov et al., arXiv
    1906.10771 (Eq. 8), for single weights: ``L(θ) − L(θ without i) ≈ g_i θ_i``. Each batch is squared by
    itself and the squares are averaged, so a weight whose gradients cancel over batches still counts. With
    one batch the order is that of SNIP.
    """
    total_N = torch.zeros_like(context.weights_N, dtype=torch.float64)
    for batch in range(batches):
        total_N += (gradient(context, batch).double() * context.weights_N.double()).square()
    return total_N / batches
