"""Each ticket in a worker process of one thread: K trainings at once on a machine with several cores.

Workers are forked from this process when a search has its first jobs, and live until it ends. So data,
backbone and settings are shared in memory, copied by nobody, and need not be such that they can be pickled.
What is sent is a mask and the weights that a round starts from, what comes back is the new mask. A process
that has used several OpenMP threads may be forked as long as its children stay at one, as ours do (so does
``torch.utils.data.DataLoader``).

A job depends on nothing but its fields, so its bits are those of the same job in this process at one thread,
whichever worker runs it and however many there are.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, NamedTuple

import torch

from tombola._utils.errors import TombolaError, WorkerDied

if TYPE_CHECKING:
    from tombola.training.ticket import TicketJob, TicketResult, TicketTrainer

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Answer(NamedTuple):
    """The message of a worker: a result and the samples that went through, or the error it ended with."""

    result: TicketResult | None
    samples_seen: int = 0
    error: BaseException | None = None


class Worker(NamedTuple):
    """A process and this end of the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def how_it_ended(self) -> str:
        """In words, once it has."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"{f'signal {-code}' if code < 0 else f'status {code}'} (was there too little memory?)"


def end(workers: Sequence[Worker]) -> None:
    """Kill all, whatever they are doing."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.pipe.close()


class Workers:
    """Processes that run the jobs of a search (a `tombola.training.parallel.Mapper`).

    Args:
        train_ticket: what runs a job.
        count: how many processes.
        cores: one for each to be pinned to; none are pinned where it is empty.

    Raises:
        WorkerDied: a worker was killed while it ran a job.
    """

    def __init__(self, train_ticket: TicketTrainer, count: int, cores: Sequence[int] = ()) -> None:
        self.train_ticket, self.count, self.cores = train_ticket, count, cores
        self._workers: list[Worker] = []

    def __call__(self, jobs: Sequence[TicketJob]) -> Iterator[TicketResult]:
        """The results in order; each worker has one at a time, and gets the next when it is done."""
        if not self._workers:
            self._start()
        left, idle = deque(range(len(jobs))), deque(self._workers)
        busy: list[tuple[int, Worker]] = []
        ready: dict[int, Answer] = {}
        for i in range(len(jobs)):
            while i not in ready:
                while left and idle:
                    worker, j = idle.popleft(), left.popleft()
                    self._send(worker, jobs[j])
                    busy.append((j, worker))
                heard = wait([worker.pipe for _, worker in busy])
                for j, worker in [pair for pair in busy if pair[1].pipe in heard]:
                    busy.remove((j, worker))
                    ready[j] = self._received(worker, jobs[j])
                    idle.append(worker)
            yield self._opened(ready.pop(i))

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        end(self._workers)
        self._workers = []

    # -- in this process ---------------------------------------------------------------------------

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        for i in range(self.count):
            ours, theirs = context.Pipe()
            core = self.cores[i] if i < len(self.cores) else None
            others = [ours, *(worker.pipe for worker in self._workers)]
            process = context.Process(
                target=_serve, args=(theirs, others, self.train_ticket, core, os.getpid()), daemon=True
            )
            with warnings.catch_warnings():  # Python warns of locks that other threads may hold: children
                warnings.simplefilter("ignore", DeprecationWarning)  # take none of theirs
                process.start()
            theirs.close()
            self._workers.append(Worker(process, ours))

    @staticmethod
    def _send(worker: Worker, job: TicketJob) -> None:
        job = job._replace(mask_N=job.mask_N.clone())  # a row of a matrix would bring the matrix
        with suppress(OSError):  # it is dead: the answer, which never comes, will say so
            worker.pipe.send_bytes(pickle.dumps(job))

    def _received(self, worker: Worker, job: TicketJob) -> Answer:
        try:
            answer: Answer = pickle.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            ticket = self.train_ticket.problem.partition.names[job.k]
            raise WorkerDied(
                f"the worker process that trained ticket {ticket!r} ended with {worker.how_it_ended()}: the "
                "same call goes on from the last saved state; with fewer threads there are fewer workers"
            ) from None
        return answer

    def _opened(self, answer: Answer) -> TicketResult:
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        self.train_ticket.problem.samples_seen += answer.samples_seen
        return answer.result


# -- in a worker -----------------------------------------------------------------------------------


def _serve(
    pipe: Connection, others: Sequence[Connection], train_ticket: TicketTrainer, core: int | None, parent: int
) -> None:
    gc.freeze()  # to look for garbage in what is inherited would copy its memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    _die_with(parent)
    for other in others:  # or nobody would notice that the parent is gone
        other.close()
    torch.set_num_threads(1)
    if core is not None and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, {core})
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            pipe.send_bytes(pickle.dumps(answered(train_ticket, pickle.loads(pipe.recv_bytes()))))


def answered(train_ticket: TicketTrainer, job: TicketJob) -> Answer:
    """The answer to a job; an error comes out as the same one, with the worker's traceback."""
    problem = train_ticket.problem
    before = problem.samples_seen
    try:
        return Answer(train_ticket(job), problem.samples_seen - before)
    except Exception as error:
        error.add_note("in a worker process:\n" + traceback.format_exc())
        return Answer(None, error=sendable(error))


def sendable(error: Exception) -> Exception:
    """An error as it can be sent: the same one, or another with its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some errors cannot be pickled, or not be made again from their words
        kind = TombolaError if isinstance(error, TombolaError) else RuntimeError
        return kind(f"{type(error).__name__}: {error}")
    return error


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, also where the parent is killed."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
