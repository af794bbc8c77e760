"""The gradient that the criteria of first and second order read."""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.pruning.scores.criterion import PruningContext


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
