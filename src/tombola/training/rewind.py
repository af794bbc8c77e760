"""The rewind after pruning: of the weights, of the learning rate, or of nothing.

``weights``        θ ← θ0, or an early step (`Settings.rewind`), after every round (Algorithm 1 of RTL;
                   Frankle & Carbin, arXiv 1803.03635, 1912.05671).
``learning_rate``  the weights stay as trained, the course of the learning rate begins again (Renda et al.,
                   arXiv 2003.02389, Section 2).
``fine_tune``      both stay: after the first round all training, Algorithm 2 too, goes on at the learning
                   rate with which the first round ended (Han et al., arXiv 1506.02626).

What else there is, in all three: the *optimiser* is new in every round and in the training (moments of
another mask would move weights that are gone). The *course* of the learning rate begins anew in every round
and in the training, but for ``fine_tune``, which has none. The *buffers* (running statistics) go back with
the weights or stay with them; before a ticket is judged its statistics are estimated afresh in any case. The
dense remainder does as the weights do.

Shape letters: K tickets, N weights in scope, R the dense remainder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tombola._utils.checkpoint import part
from tombola._utils.device import CPU
from tombola.masks.maskset import MaskSet
from tombola.training.model import Params

KINDS = ("weights", "learning_rate", "fine_tune")


class StartWeights:
    """The start of the next round of every ticket: at the rewind point, or where its last round ended.

    Attributes:
        thetas: one for each ticket.
        keeps: whether trained weights are kept; if not, every round is a rewind.
        trained: whether even the first round of a search starts from trained weights.
    """

    def __init__(self, thetas: Sequence[Params], *, keeps: bool = False, trained: bool = False) -> None:
        self.thetas, self.keeps, self.trained = list(thetas), keeps, trained

    def __getitem__(self, k: int) -> Params:
        return self.thetas[k]

    def after(self, k: int, theta: Params | None) -> None:
        """Ticket k has been trained to this, which is not carried along where nothing is kept."""
        if self.keeps and theta is not None:
            self.thetas[k] = theta

    def tensors(self) -> dict[str, Tensor]:
        """The state that `restore` goes on from: the weights under stable names; none if none are kept."""
        kept = enumerate(self.thetas if self.keeps else [])
        return {f"start.{k}.{name}": t for k, theta in kept for name, t in theta.tensors().items()}

    def restore(self, tensors: dict[str, Tensor], device: torch.device = CPU) -> None:
        """Go on from a state."""
        if self.keeps:
            K = len(self.thetas)
            self.thetas = [Params.from_tensors(part(tensors, f"start.{k}."), device) for k in range(K)]


def inherit(
    rewound: Params,
    trained: Sequence[Params],
    masks: MaskSet,
    tickets: Sequence[int],
    trainable: Sequence[Tensor | None],
) -> Params:
    """The start of Algorithm 2 if weights are kept: those that the search has trained.

    A search trains every ticket by itself. One ticket alone, or one mask for all data, goes on with exactly
    its own weights. Where several share weights, each weight begins at the mean over the tickets that keep
    it; so does the dense remainder, over those that own it. What nobody has is as at the rewind point.

    Args:
        rewound: the rewind point.
        trained: the weights of every ticket.
        masks: the masks of the search, which say who keeps what.
        tickets: who goes on together.
        trainable: of every ticket what it trains of the remainder, boolean ``[R]``, None for all of it
            (`tombola.training.trainer.Problem.trainable`).
    """
    K = len(masks)
    theta = rewound.clone(K)
    m = masks.masks_KN.to(theta.weights_N.device)
    _mean(theta.weights_N, [(trained[k].weights_N, m[k]) for k in tickets])
    _mean(theta.shared_R, [(trained[k].shared_R, trainable[k]) for k in tickets])
    for k in tickets:
        own = trained[k].private
        theta.private[k].data.copy_(own[k if len(own) > 1 else 0].detach())
    for name, buffer in theta.buffers.items():
        values = [trained[k].buffers[name] for k in tickets]
        buffer.copy_(torch.stack(values).mean(0) if buffer.is_floating_point() else values[0])
    return theta


def _mean(target: Tensor, given: Sequence[tuple[Tensor, Tensor | None]]) -> None:
    """Write into a leaf the mean over those that have an entry; where nobody has one it stays."""
    total, count = torch.zeros_like(target), torch.zeros_like(target)
    for values, mask in given:
        inside = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
        total += torch.where(inside, values.detach(), 0)
        count += inside
    target.data.copy_(torch.where(count > 0, total.detach() / count.clamp(min=1), target.detach()))
