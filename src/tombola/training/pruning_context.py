"""The state of ticket k that is about to be pruned, and the pruner that cuts its mask.

Shape letters: N weights in scope.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch
from tombola._utils.rng import generator
from tombola._utils.torch_state import in_mode
from tombola.data.dataset import Stream
from tombola.masks.layout import Layout
from tombola.masks.reference import references
from tombola.pruning import Selection, prune, transposed
from tombola.pruning.scores import CRITERIA, Criterion, Score, needs_trajectory
from tombola.training.model import Params
from tombola.training.trainer import Problem


@dataclass
class TicketContext:
    """Ticket k of a problem in one round of Algorithm 1: what a criterion reads (`tombola.scoring`).

    Reading it changes nothing: parameters, buffers, gradients, training modes and the global generator
    keep their bits. Only ``problem.samples_seen`` counts the samples that go through. Batches come in an
    order of their own, a function of (seed, order, round, ticket).

    Attributes:
        problem: f, data, partition, objective.
        theta0: where the round started, before the mask.
        theta: the weights in training, zero outside the mask (outside ``first_N`` where masks are learned).
        mask_N: ``m_k``.
        k: the ticket.
        round: the number of the round.
        trajectory: whether ``moved_N`` is kept.
        moved_N: ``−Σ_t g_t ⊙ θ_t``, which `Problem.train` adds to; None if it is not kept.
        first_N: ``m_k`` as the round began; callbacks may change ``mask_N``.
    """

    problem: Problem
    theta0: Params
    theta: Params
    mask_N: Tensor
    k: int
    round: int = 0
    trajectory: bool = False
    moved_N: Tensor | None = field(init=False, default=None)
    first_N: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.first_N = self.mask_N.clone()
        if self.trajectory:
            self.moved_N = torch.zeros_like(self.weights_N)

    @property
    def scope(self) -> Layout:
        """The layers in the flat vectors."""
        return self.problem.f.scope

    @property
    def weights_N(self) -> Tensor:
        """The trained weights."""
        return self.theta.weights_N.detach()

    @property
    def start_N(self) -> Tensor:
        """The weights that the round started from, under the mask."""
        return self.theta0.weights_N.detach().masked_fill(~self.mask_N, 0)

    @cached_property
    def _stream(self) -> Stream:
        return self.problem.stream(self.k, "score", self.round)

    def loss(self, weights_N: Tensor, batch: int) -> Tensor:
        """The loss that a training step would see: augmented, batch statistics, dropout on."""
        buffers = {name: b.clone() for name, b in self.theta.buffers.items()}
        private = [p.detach() for p in self.theta.private]
        theta = Params(weights_N, self.theta.shared_R.detach(), private, buffers)
        with in_mode(self.problem.f.module, training=True):
            self.problem.f.train()
            [drawn] = self.problem.draw([(self.k, self._stream, batch)])
            return self.problem.loss(theta, None, drawn)

    def inputs(self, batch: int) -> Batch:
        """Training inputs, not augmented."""
        index = self._stream[batch]
        self.problem.samples_seen += len(index)
        return self.problem.data.inputs("train", index, device=self.problem.f.device)

    def example(self) -> Batch:
        """One input, for its shape; it is not counted."""
        first = torch.zeros(1, dtype=torch.int64)
        return self.problem.data.inputs("train", first, device=self.problem.f.device)

    def read(self, outputs: Any) -> Tensor:
        """The part of the network's outputs that the objective reads."""
        return self.problem.objective.read(outputs)

    def network(self) -> nn.Module:
        """A copy of the backbone that holds ``m_k ⊙ θ``."""
        return self.problem.f.write(self.theta, self.mask_N, self.k if len(self.theta.private) > 1 else 0)

    def generator(self) -> torch.Generator:
        """A generator of this ticket and round."""
        return generator(*self._stream.key, "draw")


@dataclass(frozen=True)
class Pruner:
    """The cut of a ticket's mask by its scores (`tombola.pruning.prune`).

    Attributes:
        score: from what is known of a ticket to scores ``[N]``, low = prune first (`tombola.scoring`).
        selection: ``global``, ``layer``, ``uniform``, ``erk`` or ``row``.
        granularity: what is pruned together: ``weight``, ``channel``, ``block:RxC`` or ``N:M``.
        floor: what every layer keeps at least.
    """

    score: Score = CRITERIA["magnitude"]
    selection: Selection = "global"
    granularity: str = "weight"
    floor: int = 0

    @property
    def trajectory(self) -> bool:
        """Whether the score sums over the training steps."""
        return needs_trajectory(self.score)

    @property
    def batches(self) -> int:
        """Batches of a ticket's data that the score reads."""
        return self.score.batches if isinstance(self.score, Criterion) else 0

    def __call__(self, context: TicketContext, keep: int, *, allow_collapse: bool = False) -> Tensor:
        """``m_k`` without the lowest scores, ``keep`` weights, boolean ``[N]`` on the CPU.

        Raises:
            LayerCollapse: a layer would be left empty.
            PruningError: scores that cannot be pruned by.
        """
        return self.cut(context, context.mask_N, self.score(context), keep, allow_collapse=allow_collapse)

    def cut(
        self,
        context: TicketContext,
        mask_N: Tensor,
        scores_N: Tensor,
        keep: int,
        *,
        allow_collapse: bool = False,
    ) -> Tensor:
        """The same for a given mask and given scores.

        A layer without a change is that of the reference, and no collapse.
        """
        allow_collapse = allow_collapse or bool(references(context.problem.f.module))
        return prune(
            mask_N.cpu(),
            scores_N.cpu(),
            keep,
            context.scope,
            self.selection,
            allow_collapse,
            granularity=self.granularity,
            transposed=transposed(context.problem.f.module),
            floor=self.floor,
        )
