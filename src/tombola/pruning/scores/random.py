"""Random scores: the control that every criterion has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.pruning.scores.criterion import PruningContext


def uniform(theta_N: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform scores in [0, 1), ``[N]``, from the generator alone.

    >>> uniform(torch.zeros(3), torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """
    return torch.rand(theta_N.shape, generator=generator)


def random(context: PruningContext) -> Tensor:
    """Other scores for every ticket and round, ``[N]``; the weights do not matter."""
    return uniform(context.weights_N, context.generator())
