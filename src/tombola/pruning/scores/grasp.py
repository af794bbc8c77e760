"""GraSP: ``s = θ ⊙ H g``, prune what the gradient can do without (Wang et al., arXiv 2002.07376).

With ``g = ∇L`` and ``H = ∇²L`` the paper measures what a change δ of the weights does to the squared norm of
the gradient, the pace of training:

    ‖∇L(θ + δ)‖² − ‖∇L(θ)‖² ≈ 2 δᵀ H g,        so S(−θ) = −θ ⊙ H g for δ = −θ, one weight at a time.

A large ``S`` says that the norm grows when the weight is removed; those weights go first in the paper.
With us the low scores go first, hence ``s = −S = θ ⊙ H g``. The sign of a score matters, no absolute value
is taken. Everything is that of the ticket: ``g`` is zero outside the mask. The paper divides the outputs of
classifiers by a temperature; here the loss is the one of training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tombola._utils.errors import PruningError
from tombola.pruning.scores.criterion import PruningContext, mean_gradient


class _Twice(TorchFunctionMode):
    """Inside, ``hardsigmoid`` is written with a clamp: PyTorch has no second derivative of its own."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is F.hardsigmoid:
            return (args[0] / 6 + 0.5).clamp(0, 1)
        return func(*args, **(kwargs or {}))


def hessian_product(loss: Callable[[Tensor], Tensor], weights_N: Tensor, vector_N: Tensor) -> Tensor:
    """``H v = ∇_θ (gᵀ v)``, ``[N]``, without the matrix (Pearlmutter's trick).

    Raises:
        PruningError: a part of the network cannot be differentiated twice.

    >>> a = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> hessian_product(lambda w: w @ a @ w / 2, torch.ones(2), torch.tensor([1.0, 0.0])).tolist()
    [2.0, 1.0]
    """
    theta_N = weights_N.detach().clone().requires_grad_()
    with _Twice():
        value = loss(theta_N)
    (g_N,) = torch.autograd.grad(value, theta_N, create_graph=True)
    if not g_N.requires_grad:  # linear in the weights
        return torch.zeros_like(weights_N)
    try:
        # Not autograd.grad: asked for one tensor, it leaves out nodes that can only raise, and an operation
        # without a second derivative would count as one whose second derivative is zero.
        (g_N @ vector_N.detach()).backward()
    except RuntimeError as error:
        raise PruningError(
            "grasp needs second derivatives, which this network does not have "
            f"({str(error).splitlines()[0]}): choose another score"
        ) from None
    return torch.zeros_like(weights_N) if theta_N.grad is None else theta_N.grad


def grasp(context: PruningContext, batches: int = 1) -> Tensor:
    """``θ ⊙ H g`` with ``g`` and ``H`` of the mean loss over batches of ``d_k``, ``[N]``.

    Two passes, the first for ``g`` and the second for ``H g``, so that memory holds one batch.
    """
    g_N, product_N = mean_gradient(context, batches), torch.zeros_like(context.weights_N)
    for batch in range(batches):
        product_N += hessian_product(partial(context.loss, batch=batch), context.weights_N, g_N)
    return context.weights_N * (product_N / batches)
