"""Movement: ``s = −Σ_t g_t ⊙ θ_t``, which weights move away from zero (Sanh et al., arXiv 2005.07683).

A step of gradient descent makes ``|θ_i|`` larger where ``g_i θ_i < 0``. The paper learns the sum as a score
beside the weights, with gradients for pruned weights too (straight-through), so that they may come back;
here masks only shrink, and a pruned weight has no gradient. Its learning rate scales all scores alike and
is left out.
"""

from __future__ import annotations

from torch import Tensor

from tombola._utils.errors import PruningError
from tombola.pruning.scores.criterion import PruningContext


def away_from_zero(weights_N: Tensor, gradient_N: Tensor) -> Tensor:
    """The share of one training step, ``−g_t ⊙ θ_t``, ``[N]``.

    >>> import torch
    >>> away_from_zero(torch.tensor([2.0, 2.0]), torch.tensor([-3.0, 0.5])).tolist()  # grows, shrinks
    [6.0, -1.0]
    """
    return -(gradient_N.detach() * weights_N.detach())


def movement(context: PruningContext) -> Tensor:
    """The sum over the training steps of this round, ``[N]``; without any it is zero."""
    if context.moved_N is None:
        raise PruningError(
            "movement needs the sum over the training steps, which was not kept: ask for the criterion "
            "by its name (tombola.scoring.CRITERIA)"
        )
    return context.moved_N
