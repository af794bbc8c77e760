"""Random scores: the control that every criterion has to beat."""

from __future__ import annotations

import torch
from torch import Tensor


def random(theta_N: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform scores in [0, 1), ``[N]``, from the generator alone.

    >>> random(torch.zeros(3), torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """
    return torch.rand(theta_N.shape, generator=generator)
