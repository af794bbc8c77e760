"""Each turn in a worker process of one thread: K trainings at once on a machine with several cores.

Workers are forked from this process when a search asks for its first turn, and live until it ends. So data,
backbone and settings are shared in memory, copied by nobody, and need not be such that they can be pickled.
What is sent is a mask and the weights that a round starts from, what comes back is the new mask. A process
that has used several OpenMP threads may be forked as long as its children stay at one, as ours do (so does
``torch.utils.data.DataLoader``).

A turn depends on nothing but what is asked for, so its bits are those of the same turn in this process at one
thread, whichever worker takes it and however many there are.
"""

from __future__ import annotations

import ctypes
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
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch

from tombola.errors import TombolaError, WorkerDied
from tombola.together.turn import Asked, Turned, Turns

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Answer(NamedTuple):
    """What a worker sends: a turn and the samples that went through, or the error it ended with."""

    turned: Turned | None
    seen: int = 0
    error: BaseException | None = None


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection


class Workers:
    """Processes that take the turns of a search (a `tombola.together.Way`).

    Args:
        turns: what they consist of.
        count: how many processes.
        cores: one for each to be pinned to; none are pinned where it is empty.

    Raises:
        WorkerDied: a worker was killed while it took a turn.
    """

    whole = False

    def __init__(self, turns: Turns, count: int, cores: Sequence[int] = ()) -> None:
        self.turns, self.count, self.cores = turns, count, cores
        self._workers: list[_Worker] = []

    def __call__(self, asked: Sequence[Asked]) -> Iterator[Turned]:
        """The turns in order; each worker has one at a time, and gets the next when it is done."""
        if not self._workers:
            self._start()
        left, idle = deque(range(len(asked))), deque(self._workers)
        busy: list[tuple[int, _Worker]] = []
        ready: dict[int, Answer] = {}
        for i, one in enumerate(asked):
            while i not in ready:
                while left and idle:
                    worker, j = idle.popleft(), left.popleft()
                    self._send(worker, asked[j])
                    busy.append((j, worker))
                heard = wait([worker.pipe for _, worker in busy])
                for j, worker in [pair for pair in busy if pair[1].pipe in heard]:
                    busy.remove((j, worker))
                    ready[j] = _received(worker, asked[j])
                    idle.append(worker)
            yield self._opened(ready.pop(i), one)

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that are alive."""
        return [w.process.pid for w in self._workers if w.process.is_alive() and w.process.pid]

    # -- in this process ---------------------------------------------------------------------------

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        for i in range(self.count):
            ours, theirs = context.Pipe()
            core = self.cores[i] if i < len(self.cores) else None
            others = [ours, *(worker.pipe for worker in self._workers)]
            process = context.Process(
                target=_serve, args=(theirs, others, self.turns, core, os.getpid()), daemon=True
            )
            with warnings.catch_warnings():  # Python warns of locks that other threads may hold: children
                warnings.simplefilter("ignore", DeprecationWarning)  # take none of theirs
                process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))

    def _send(self, worker: _Worker, asked: Asked) -> None:
        which = next(i for i, problem in enumerate(self.turns.problems) if problem is asked.problem)
        with suppress(OSError):  # it is dead: the answer, which never comes, will say so
            mask_N = asked.mask_N.clone()  # a row of a matrix would bring the matrix
            worker.pipe.send_bytes(pickle.dumps((which, asked.k, asked.r, mask_N, asked.start)))

    @staticmethod
    def _opened(answer: Answer, asked: Asked) -> Turned:
        if answer.error is not None:
            raise answer.error
        assert answer.turned is not None
        asked.problem.seen += answer.seen
        return answer.turned


def _received(worker: _Worker, asked: Asked) -> Answer:
    try:
        answer: Answer = pickle.loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):
        worker.process.join()
        ticket, code = asked.problem.partition.names[asked.k], worker.process.exitcode or 0
        raise WorkerDied(
            f"the worker process that trained ticket {ticket!r} ended with "
            f"{f'signal {-code}' if code < 0 else f'status {code}'} (was there too little memory?): the same "
            "call goes on from the last saved state; with fewer threads there are fewer workers"
        ) from None
    return answer


# -- in a worker -----------------------------------------------------------------------------------


def _serve(
    pipe: Connection, others: Sequence[Connection], turns: Turns, core: int | None, parent: int
) -> None:
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
            which, k, r, mask_N, start = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(answered(turns, Asked(turns.problems[which], k, r, mask_N, start)))


def answered(turns: Turns, asked: Asked) -> bytes:
    """A turn as a pickled `Answer`; an error comes out as the same one, with the worker's traceback."""
    before = asked.problem.seen
    try:
        turned = turns.take(asked)
        if not turns.keeps:
            turned = turned._replace(theta=None)
        return pickle.dumps(Answer(turned, asked.problem.seen - before))
    except Exception as error:
        error.add_note("in a worker process:\n" + traceback.format_exc())
        try:
            pickle.loads(content := pickle.dumps(Answer(None, error=error)))
        except Exception:  # some errors cannot be pickled, or not be made again from their words
            kind = TombolaError if isinstance(error, TombolaError) else RuntimeError
            return pickle.dumps(Answer(None, error=kind(f"{type(error).__name__}: {error}")))
        return content


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, also where the parent is killed."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
