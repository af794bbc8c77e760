"""The ways to run the tickets of a round (``map_tickets``), and the rule of ``auto``.

``no``       one after the other, each with all threads.
``workers``  each with one thread; in worker processes where that pays, one after the other where it does not,
             to the same bits.
``batched``  all in one batch (`tombola.training.parallel.batched`); equal to the others up to rounding.
``ranks``    shared out over the processes of a process group (`tombola.training.parallel.shared`), to the
             bits of ``no`` with as many threads as each of them has: one under torchrun.
``joint_ranks``  the same, and joint training over them too (`tombola.training.parallel.gradients`).
``batched_ranks``  shared out, and what a rank has of a round is one batch: for a process on each accelerator.
``auto``     ``ranks`` inside a process group; else ``workers`` on several cores, else ``no``; never
             ``batched``. What the time of a step is guessed from is its size, and what a sample takes to be
             read where samples are not in memory.

With one thread ``no`` and ``workers`` have the same bits; with several, ``no`` has others, because sums are
then split among threads. So a run on disk remembers which of the two it began with.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
import torch.distributed as dist

from tombola._utils.batch import Batch
from tombola._utils.errors import UsageError, unknown
from tombola.data.stored import Request, Stored
from tombola.training.loop import BATCHED
from tombola.training.parallel.batched import Batched
from tombola.training.parallel.workers import Workers

if TYPE_CHECKING:
    from tombola.training.ticket import TicketJob, TicketResult, TicketTrainer

Parallel = Literal["auto", "no", "workers", "batched", "ranks", "joint_ranks", "batched_ranks"]
OVER_RANKS = ("ranks", "joint_ranks", "batched_ranks")
BATCHES = ("batched", "batched_ranks")  # the trainings of a round go through the network together

# Measured on two cores of a Xeon at 2.5 GHz, in processor time: a fork takes 30 to 70 ms, and its first steps
# about 0.3 s more than later ones (memory is copied when it is written to, kernels are made anew).
STEP = 0.3e-3  # seconds that the smallest step takes
# Multiplications a second; convolutions use a weight many times, so they take longer than this says.
RATE = 2e10
FEW = 4  # samples whose reading is timed
WORTH = 1.0  # seconds of work that pay for the start of workers


class Mapper(Protocol):
    """A way to run the jobs of a round."""

    def __call__(self, jobs: Sequence[TicketJob]) -> Iterator[TicketResult]:
        """The results in the order of the jobs, each as soon as it is ready.

        Raises:
            TombolaError: whatever a job raises; of several that fail the first in order.
        """
        ...

    def close(self) -> None:
        """Let go of what is held; jobs that are not ready are given up."""
        ...


MapTickets = Parallel | Callable[["TicketTrainer"], Mapper]


class InTurn:
    """Each job is run when its result is wanted.

    Args:
        train_ticket: what runs a job.
        threads: of each training; all that torch has by default. With one the bits are those of `Workers`.
    """

    def __init__(self, train_ticket: TicketTrainer, threads: int | None = None) -> None:
        self.train_ticket, self.threads = train_ticket, threads

    def __call__(self, jobs: Sequence[TicketJob]) -> Iterator[TicketResult]:
        """The results in order, none before it is wanted."""
        for job in jobs:
            with threads(self.threads):
                result = self.train_ticket(job)
            yield result

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes with so many threads (None: as it does); afterwards with as many as before."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def world() -> tuple[int, int] | None:
    """The rank of this process, and how many there are; None outside of a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return None


def settled(asked: str, over_ranks: bool = True) -> Parallel:
    """The way asked for, with ``auto`` decided for this machine.

    Args:
        asked: a way, or ``auto``.
        over_ranks: whether ``auto`` may be the ranks of a process group.

    Raises:
        UsageError: no such way, or workers where there can be none.
    """
    if asked not in get_args(Parallel):
        raise UsageError(unknown("way to run tickets", asked, get_args(Parallel)))
    why_not = hindrance()
    if asked == "workers" and why_not:
        raise UsageError(f"no workers: {why_not}; leave out parallel")
    if asked == "auto" and over_ranks and world() is not None:
        return "ranks"
    if asked == "auto":
        return "no" if why_not or cores() < 2 else "workers"
    return asked  # type: ignore[return-value]


def mapper(map_tickets: MapTickets, train_ticket: TicketTrainer, K: int, steps: int) -> Mapper:
    """The mapper for the jobs of a search; close it afterwards.

    Args:
        map_tickets: one of the ways above, or a function that makes a `Mapper`.
        train_ticket: what runs a job.
        K: tickets; one alone is trained with all threads.
        steps: training steps that are left, of all tickets.
    """
    if callable(map_tickets):
        return map_tickets(train_ticket)
    # Over ranks only where the whole program is (`tombola.runs.cache.opened`), which has settled it.
    kind = settled(map_tickets, over_ranks=False) if map_tickets == "auto" else map_tickets
    if kind in BATCHES and train_ticket.train_loop is not None:
        raise UsageError(BATCHED)
    if kind in OVER_RANKS and world() is not None:
        from tombola.training.parallel.shared import SharedOut  # most programs have one process

        return SharedOut(train_ticket, batched=kind in BATCHES)
    if kind in BATCHES and K > 1:
        return Batched(train_ticket)
    if K < 2 or kind != "workers":
        return InTurn(train_ticket)
    if cores() < 2 or hindrance() or least_seconds(train_ticket, steps) < WORTH:
        return InTurn(train_ticket, threads=1)
    count = min(cores(), K)
    free = sorted(affinity())
    # Pinned only where they take all cores: a few of many would meet the workers of other programs.
    return Workers(train_ticket, count, free if count == len(free) else ())


def cores() -> int:
    """The most workers that there may be: cores that this process may use, at most torch's threads."""
    return min(len(affinity()), torch.get_num_threads())


def affinity() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def hindrance() -> str:
    """Why this process can have no workers; empty if it can."""
    if sys.platform != "linux":
        return "they are forked, which is safe on Linux only"
    if torch.accelerator.is_available():
        return "torch has opened an accelerator, after which it cannot be forked (hide it to have workers)"
    if multiprocessing.current_process().daemon:
        return "this is a worker process itself"
    return ""


def least_seconds(train_ticket: TicketTrainer, steps: int) -> float:
    """The seconds that so many training steps take at least on one core, from sizes and the time to read."""
    problem = train_ticket.problem
    rows = problem.config.batch_size
    products = 6 * rows * problem.f.scope.size  # forward, and backward twice that
    return steps * (STEP + products / RATE + rows * reading(problem.data.train.x))


def reading(x: Batch | Stored) -> float:
    """Seconds that a sample takes to be read, measured on a few; none where samples are in memory."""
    if not isinstance(x, Stored):
        return 0.0
    few = torch.arange(min(FEW, len(x)))
    x.read(Request(few[:1]))  # the first may import a library
    began = time.perf_counter()
    x.read(Request(few))
    return (time.perf_counter() - began) / len(few)
