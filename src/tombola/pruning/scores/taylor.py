"""Taylor: ``s = mean_b (g_b ⊙ θ)²``, the squared change of the loss without a weight, to first order.

Molchanov et al., arXiv 1906.10771 (Eq. 8 there), for single weights: ``L(θ) − L(θ without i) ≈ g_i θ_i``.
Each batch is squared by itself and the squares are averaged, so a weight whose gradients cancel over
batches still counts. With one batch the order is that of SNIP.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.pruning.scores.criterion import PruningContext, gradient


def first_order(weights_N: Tensor, gradient_N: Tensor) -> Tensor:
    """``(g ⊙ θ)²``, float64 ``[N]``: in float32 the squares of small products would be zero.

    >>> first_order(torch.tensor([-2.0, 1.0]), torch.tensor([3.0, 0.5])).tolist()
    [36.0, 0.25]
    """
    return (gradient_N.double() * weights_N.double()).square()


def taylor(context: PruningContext, batches: int = 1) -> Tensor:
    """The mean of `first_order` over batches of ``d_k``, float64 ``[N]``."""
    total_N = torch.zeros_like(context.weights_N, dtype=torch.float64)
    for batch in range(batches):
        total_N += first_order(context.weights_N, gradient(context, batch))
    return total_N / batches
