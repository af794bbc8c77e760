"""A ticket's turn in a round of Algorithm 1: begun, trained, and cut; and what takes the turns of a round.

What a turn comes to depends on its fields and on nothing else, so that the turns of a round may be taken in
any order, or at once.

Shape letters: N weights in scope.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from tombola.settings import TrainConfig
from tombola.training.model import Params
from tombola.training.pruning_context import TicketContext
from tombola.training.trainer import Callback, Problem


@dataclass(frozen=True)
class Turn:
    """Whose turn it is, and where it begins.

    Attributes:
        problem: what is trained on; its ``seen`` counts the samples of the turn.
        k: the ticket.
        r: the round, counted from the first entry of the schedule.
        mask_N: ``m_k``; what moves masks (SET, RigL) may change it in place.
        start: the weights that the round starts from; they keep their bits.
    """

    problem: Problem
    k: int
    r: int
    mask_N: Tensor
    start: Params


@dataclass(frozen=True)
class Training:
    """T steps of a ticket that are about to be made, on the weights of its evidence."""

    context: TicketContext
    T: int
    config: TrainConfig | None = None
    callback: Callback | None = None

    def run(self) -> float:
        """Make them, in place; the mean loss."""
        e = self.context
        order = ("extract", e.round)
        further: dict[str, Any] = {"moved_N": e.moved_N, "config": self.config, "callback": self.callback}
        return e.problem.train(e.theta, e.mask_N, e.k, self.T, *order, **further)


class TurnResult(NamedTuple):
    """What a turn comes to.

    Attributes:
        mask_N: the mask after pruning.
        theta: what was trained; None where nobody asked for it (`Work.keeps`).
        loss: the mean over the steps.
        facts: of what looked on; None where nothing did.
        outputs: what the guard saw (`tombola.training.callbacks.guard.Guard.saw`).
    """

    mask_N: Tensor
    theta: Params | None
    loss: float
    metadata: dict[str, Any] | None = None
    outputs: Tensor | None = None


class Work(ABC):
    """What the turns of a search consist of: the beginning and the end; training lies between.

    Attributes:
        problems: all that turns may have.
        keeps: whether the trained weights are wanted.
    """

    problems: Sequence[Problem]
    keeps: bool

    @abstractmethod
    def begin(self, turn: Turn) -> Training:
        """Rewind and mask the weights, and say how they are trained."""

    @abstractmethod
    def finish(self, training: Training, loss: float) -> TurnResult:
        """Score and prune, after a training and with its loss."""

    def take(self, turn: Turn) -> TurnResult:
        """One turn, here and now."""
        training = self.begin(turn)
        return self.finish(training, training.run())


class Executor(Protocol):
    """What takes the turns of a round.

    ``whole``: whether a round must be taken whole, so that a search cannot go on from the middle of one to
    the same bits.
    """

    whole: bool

    def __call__(self, turns: Sequence[Turn]) -> Iterator[TurnResult]:
        """What the turns come to, in their order, as soon as it is ready.

        Raises:
            TombolaError: whatever a turn raises; of several that fail the first in order.
        """

    def close(self) -> None:
        """Let go of what is held; turns that are not ready are given up."""
