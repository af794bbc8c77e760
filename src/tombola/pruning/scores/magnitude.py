"""Magnitude: ``s = |θ|`` (Algorithm 1 of RTL; Han et al., arXiv 1506.02626)."""

from __future__ import annotations

from torch import Tensor

from tombola.pruning.scores.criterion import PruningContext


def absolute(theta_N: Tensor) -> Tensor:
    """Absolute weights, ``[N]`` to ``[N]``.

    >>> import torch
    >>> absolute(torch.tensor([-2.0, 1.0])).tolist()
    [2.0, 1.0]
    """
    return theta_N.detach().abs()


def magnitude(context: PruningContext) -> Tensor:
    """The magnitude of the trained weights, ``[N]``."""
    return absolute(context.weights_N)
