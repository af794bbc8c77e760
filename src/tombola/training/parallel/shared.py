"""The tickets of a round shared out over the ranks of a process group.

Rank r runs the jobs r, r + N, r + 2N, ... and tells all others what came of each. A job depends on nothing
but its fields, so masks have the bits of one process after another, whatever N is.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from tombola._utils.errors import UsageError
from tombola._utils.io import digest
from tombola._utils.ranks import ranks
from tombola.training.parallel.workers import Answer, answered

if TYPE_CHECKING:
    from tombola.training.ticket import TicketJob, TicketResult, TicketTrainer


class SharedOut:
    """The jobs of a search over all ranks (a `tombola.training.parallel.Mapper`), which call it together.

    Args:
        train_ticket: what runs a job.

    Raises:
        RankLost: another rank has ended, or is silent for too long; the message names its ticket.
        RunError: masks differ between ranks.
        UsageError: the network is not on the CPU.
    """

    def __init__(self, train_ticket: TicketTrainer) -> None:
        if train_ticket.problem.f.device.type != "cpu":
            raise UsageError("ranks compute on the CPU: leave the device out, or take parallel=no")
        self.train_ticket, self.ranks = train_ticket, ranks()

    def __call__(self, jobs: Sequence[TicketJob]) -> Iterator[TicketResult]:
        """The results in order, none before this rank has run its own jobs."""
        names, N = self.train_ticket.problem.partition.names, self.ranks.size
        self.ranks.agree("the masks that a round starts from", digest(_masks(jobs)))
        own: dict[int, bytes] = {}
        for j, job in enumerate(jobs):
            if j % N == self.ranks.rank:
                self.ranks.at(f"ticket {names[job.k]!r}, round {job.round}")
                own[j] = answered(self.train_ticket, job)
        results = [self._opened(self.ranks.tell(own.get(j), j % N), j in own) for j in range(len(jobs))]
        self.ranks.agree("the masks of a round", digest(_masks(results)))
        yield from results

    def _opened(self, content: bytes, own: bool) -> TicketResult:
        answer: Answer = pickle.loads(content)
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        if not own:  # those of its own jobs this rank has counted
            self.train_ticket.problem.samples_seen += answer.samples_seen
        return answer.result

    def close(self) -> None:
        """Nothing is held."""


def _masks(of: Sequence[TicketJob] | Sequence[TicketResult]) -> dict[str, torch.Tensor]:
    return {"masks": torch.stack([one.mask_N for one in of])}
