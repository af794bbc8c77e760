"""Where the gradients of joint training come from: this process, or all ranks of a process group.

``sequential``: all ranks train the same ticket. Each takes its part of the batch, and the gradients of the
parts are averaged by their sizes, so that a step is that of one process with the whole batch, up to rounding.
``simultaneous``: each rank takes tickets of its own, and masked gradients are summed.

What is summed is a flat vector: one reduction a step. Masks are applied after it, by the optimiser, whose
moments are the same on all ranks. Not `DistributedDataParallel`: its mean would also move what a ticket has
no gradient for (pytorch#41101).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tombola._utils.batch import take
from tombola._utils.errors import UsageError
from tombola._utils.io import digest
from tombola.training.model import Params
from tombola.training.parallel.choose import Parallel, world
from tombola.training.trainer import Problem, TicketBatch

if TYPE_CHECKING:
    from tombola._utils.ranks import Ranks


def gradients_of(problem: Problem, parallel: Parallel) -> Gradients:
    """Where joint training has its gradients from: all ranks for ``joint_ranks``, else this process."""
    if parallel != "joint_ranks" or (world() or (0, 1))[1] == 1:
        return Gradients(problem)
    from tombola._utils.ranks import ranks  # most programs have one process

    return RankGradients(problem, ranks())


@dataclass
class Gradients:
    """The gradients of one process.

    Attributes:
        problem: what is trained on.
    """

    problem: Problem

    def own(self, group: Sequence[int]) -> Sequence[int]:
        """The tickets of a step whose batches this process takes."""
        return group

    def add(self, theta: Params, mask_N: Tensor, batch: TicketBatch, group: Sequence[int]) -> Tensor:  # noqa: ARG002
        """Add ``∇_θ L(f(x; m_k ⊙ θ), y)`` of one of the group to the leaves' gradients; returns the loss."""
        return self.problem.gradient(theta, mask_N, batch)

    def join(self, theta: Params, group: Sequence[int]) -> None:
        """Before a step: the gradients of all processes, in place."""

    def settle(self, theta: Params, losses_K: Tensor) -> None:
        """Before a state is saved: the same losses and buffers in all processes, in place."""


class RankGradients(Gradients):
    """The gradients of all ranks, which call this together.

    Args:
        problem: what is trained on, the same on all ranks; its batch is that of a step, whatever N is.
        ranks: of `tombola._utils.ranks.ranks`.

    Raises:
        UsageError: a part of the batch would have less than two samples.
    """

    def __init__(self, problem: Problem, ranks: Ranks) -> None:
        super().__init__(problem)
        self.ranks = ranks
        if problem.config.batch_size < 2 * ranks.size:
            raise UsageError(
                f"train.batch_size={problem.config.batch_size} over {ranks.size} ranks leaves a rank less "
                "than two samples: take a larger batch, fewer ranks, or parallel=ranks"
            )

    def own(self, group: Sequence[int]) -> Sequence[int]:
        """The one ticket of the step, of which all have a part, or every N-th."""
        return group if len(group) == 1 else self._of(self.ranks.rank, group)

    def _of(self, rank: int, group: Sequence[int]) -> Sequence[int]:
        return group if len(group) == 1 else group[rank :: self.ranks.size]

    def add(self, theta: Params, mask_N: Tensor, batch: TicketBatch, group: Sequence[int]) -> Tensor:
        """Of this rank's part of the batch, times its share, where the group is one ticket."""
        if len(group) > 1:
            return self.problem.gradient(theta, mask_N, batch)
        rank, N, B = self.ranks.rank, self.ranks.size, len(batch.targets)
        part = slice(B * rank // N, B * (rank + 1) // N)
        key = (*batch.key, "rank", rank) if rank else batch.key  # dropout differs from part to part
        mine = TicketBatch(batch.k, key, take(batch.x, part), batch.targets[part])
        loss = self.problem.loss(theta, mask_N, mine) * ((part.stop - part.start) / B)
        loss.backward()
        return loss.detach()

    def join(self, theta: Params, group: Sequence[int]) -> None:
        """``Σ_ranks ∇``; a leaf that no rank has a gradient for gets none."""
        every = theta.weights_N, theta.shared_R, *(theta.private[k] for k in group)
        leaves = [leaf for leaf in every if leaf.numel()]  # what is empty lies anywhere
        given = torch.tensor([float(leaf.grad is not None) for leaf in leaves], device=leaves[0].device)
        parts = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        vector = torch.cat([*parts, given])
        self.ranks.sum(vector, lambda rank: self._place(rank, group))
        *summed, counts = vector.split([*(leaf.numel() for leaf in leaves), len(leaves)])
        for leaf, part, count in zip(leaves, summed, counts.tolist(), strict=True):
            leaf.grad = part.to(leaf.dtype) if count else None
        B = self.problem.config.batch_size
        self.problem.samples_seen += B * (len(group) - len(self.own(group)))

    def _place(self, rank: int, group: Sequence[int]) -> str:
        names = self.problem.partition.names
        return f"joint training, ticket {', '.join(repr(names[k]) for k in self._of(rank, group))}"

    def settle(self, theta: Params, losses_K: Tensor) -> None:
        """Losses are summed, buffers are those of rank 0; weights have to agree already."""
        self.ranks.sum(losses_K)
        if theta.buffers:
            told = self.ranks.tell(theta.buffers)
            theta.buffers.update({name: b.to(self.problem.f.device) for name, b in told.items()})
        trained = {name: t for name, t in theta.tensors().items() if not name.startswith("buffers.")}
        self.ranks.agree("the weights of joint training", digest(trained))
