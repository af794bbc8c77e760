"""The tickets of a round shared out over the ranks of a process group.

Rank r runs the jobs r, r + N, r + 2N, ... and tells all others what came of each. A job depends on nothing
but its fields, so masks have the bits of one process after another, whatever N is; as one batch on each rank,
those of that batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from tombola._utils.io import digest
from tombola._utils.ranks import ranks
from tombola.training.parallel.batched import Batched
from tombola.training.parallel.workers import Answer, answered, sendable

if TYPE_CHECKING:
    from tombola.training.ticket import TicketJob, TicketResult, TicketTrainer


class SharedOut:
    """The jobs of a search over all ranks (a `tombola.training.parallel.Mapper`), which call it together.

    Args:
        train_ticket: what runs a job.
        batched: whether a rank trains its jobs of a round as one batch.

    Raises:
        RankLost: another rank has ended, or is silent for too long; the message names its ticket.
        RunError: masks differ between ranks.
    """

    def __init__(self, train_ticket: TicketTrainer, batched: bool = False) -> None:
        self.train_ticket, self.ranks = train_ticket, ranks()
        self.batched = Batched(train_ticket) if batched else None

    def __call__(self, jobs: Sequence[TicketJob]) -> Iterator[TicketResult]:
        """The results in order, none before this rank has run its own jobs."""
        rank, N = self.ranks.rank, self.ranks.size
        self.ranks.agree("the masks that a round starts from", digest(_masks(jobs)))
        mine = range(rank, len(jobs), N)
        own = dict(zip(mine, self._answers([jobs[j] for j in mine]), strict=True))
        results = [self._opened(self.ranks.tell(own.get(j), j % N), j in own) for j in range(len(jobs))]
        self.ranks.agree("the masks of a round", digest(_masks(results)))
        yield from results

    def _answers(self, jobs: Sequence[TicketJob]) -> list[Answer]:
        names = self.train_ticket.problem.partition.names
        if self.batched is None:
            found = []
            for job in jobs:
                self.ranks.at(f"ticket {names[job.k]!r}, round {job.round}")
                found.append(answered(self.train_ticket, job))
            return found
        if jobs:
            self.ranks.at(f"tickets {', '.join(names[job.k] for job in jobs)}, round {jobs[0].round}")
        before = self.train_ticket.problem.samples_seen
        try:
            results = list(self.batched(jobs))
        except Exception as error:
            return [Answer(None, error=sendable(error)) for _ in jobs]
        seen = self.train_ticket.problem.samples_seen - before
        return [Answer(result, 0 if i else seen) for i, result in enumerate(results)]

    def _opened(self, answer: Answer, own: bool) -> TicketResult:
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        problem, theta = self.train_ticket.problem, answer.result.theta
        if not own:  # those of its own jobs this rank has counted
            problem.samples_seen += answer.samples_seen
        return answer.result._replace(theta=theta and theta.to(problem.f.device))

    def close(self) -> None:
        """Nothing is held."""


def _masks(of: Sequence[TicketJob] | Sequence[TicketResult]) -> dict[str, torch.Tensor]:
    return {"masks": torch.stack([one.mask_N for one in of])}
