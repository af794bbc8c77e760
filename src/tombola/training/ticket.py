"""A ticket in one round of Algorithm 1: rewound, trained under its mask, scored and cut.

What comes of a job depends on its fields and on nothing else, so the jobs of a round may be run in any order
or at once (`tombola.training.parallel`).

Shape letters: N weights in scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from tombola._utils.errors import PruningError
from tombola.training import loop
from tombola.training.callbacks.base import Callback
from tombola.training.model import Params
from tombola.training.pruning_context import Pruner, TicketContext
from tombola.training.trainer import Problem, StepCallback

if TYPE_CHECKING:
    from tombola.settings import TrainConfig


class TicketJob(NamedTuple):
    """The ticket that is trained, and where it starts.

    Attributes:
        k: the ticket.
        round: the number of the round; data order depends on it.
        mask_N: ``m_k``; what moves or learns masks may change it in place.
        start: the weights that the round starts from; they keep their bits.
        keep: weights that are kept after the round.
        config: another one than the problem's.
    """

    k: int
    round: int
    mask_N: Tensor
    start: Params
    keep: int
    config: TrainConfig | None = None


class TicketResult(NamedTuple):
    """The result of a job.

    Attributes:
        mask_N: the mask after pruning.
        theta: the trained weights; None where nobody asked for them.
        loss: the mean over the steps.
        rows: what callbacks have to record of the training.
    """

    mask_N: Tensor
    theta: Params | None
    loss: float
    rows: Sequence[dict[str, Any]] = ()


class Training(NamedTuple):
    """T steps that are about to be made on the weights of a context."""

    context: TicketContext
    config: TrainConfig | None = None
    callbacks: Sequence[StepCallback] = ()


@dataclass(frozen=True)
class TicketTrainer:
    """T steps of the trainer under the mask, then the score, then the cut.

    Attributes:
        problem: f, data, partition, objective.
        T: training steps.
        pruner: how ``m_k`` is cut.
        keeps: whether the trained weights are wanted.
        callbacks: what looks on.
        train_loop: the user's own training of a ticket, in place of the problem's.
    """

    problem: Problem
    T: int
    pruner: Pruner
    keeps: bool = False
    callbacks: Sequence[Callback] = ()
    train_loop: loop.TrainLoop | None = None

    def __call__(self, job: TicketJob) -> TicketResult:
        """Run a job, here and now."""
        training = self.begin(job)
        return self.finish(job, training, self.train(training))

    def begin(self, job: TicketJob) -> Training:
        """θ ← θ0, under ``m_k``."""
        m_k = job.mask_N.to(self.problem.f.device)
        theta = job.start.masked(m_k)
        context = TicketContext(self.problem, job.start, theta, m_k, job.k, job.round, self.pruner.trajectory)
        looking = (c.on_ticket(context, self.pruner, job.keep, self.T) for c in self.callbacks)
        return Training(context, job.config, [one for one in looking if one is not None])

    def train(self, training: Training) -> float:
        """``θ^(k)_T``: T steps on ``d_k``, in place; the mean loss."""
        c, config, callbacks = training
        order = ("extract", c.round)  # names the data order: another word, other batches
        if self.train_loop is not None and self.T:
            return loop.run(self.train_loop, self.problem, training, self.T, order)
        return self.problem.train(
            c.theta, c.mask_N, c.k, self.T, *order, moved_N=c.moved_N, config=config, callbacks=callbacks
        )

    def finish(self, job: TicketJob, training: Training, loss: float) -> TicketResult:
        """``m_k`` without the lowest scores: those of ``|θ_T^(k)|`` in the paper."""
        context = training.context
        try:
            m_k = self.pruner(context, job.keep)
        except PruningError as error:
            name = self.problem.partition.names[job.k]
            raise type(error)(f"round {job.round}, ticket {name!r}: {error}") from None
        rows = [one.metadata() for one in training.callbacks]
        return TicketResult(m_k, context.theta if self.keeps else None, loss, rows)
