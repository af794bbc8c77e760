"""SNIP: ``s = |g ⊙ θ|``, how much the loss feels each connection (Lee et al., arXiv 1810.02340).

The paper multiplies every weight by a connection ``c = 1`` and asks for ``|∂L / ∂c|``, which is
``|g ⊙ θ|`` with ``g = ∇_θ L``. It divides by the sum over all weights; that changes no order and is left
out. Over several batches the gradients are averaged first, so that the score is the one of a large batch
(norms still see each batch by itself). It is meant for untrained weights (``T = 0``) and one round.
"""

from __future__ import annotations

from torch import Tensor

from tombola.pruning.scores.criterion import PruningContext, mean_gradient


def connection_sensitivity(weights_N: Tensor, gradient_N: Tensor) -> Tensor:
    """``|g ⊙ θ|``, ``[N]``.

    >>> import torch
    >>> connection_sensitivity(torch.tensor([-2.0, 1.0]), torch.tensor([3.0, 0.5])).tolist()
    [6.0, 0.5]
    """
    return (gradient_N * weights_N).abs()


def snip(context: PruningContext, batches: int = 1) -> Tensor:
    """The sensitivity of the loss of ``d_k`` to each connection, ``[N]``."""
    return connection_sensitivity(context.weights_N, mean_gradient(context, batches))
