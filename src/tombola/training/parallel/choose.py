"""Which executor takes the turns of a round: the rule of ``auto``, and what overrides it.

``no``       one after the other, each with all threads.
``workers``  each with one thread; in worker processes where that pays, one after the other where it does not,
             to the same bits.
``batched``  all in one batch (`tombola.training.parallel.batched`); equal to the others up to rounding.
``auto``     ``workers`` on several cores, else ``no``; never ``batched``.

With one thread ``no`` and ``workers`` have the same bits; with several, ``no`` has others, because sums are
then split among threads. So a run on disk remembers which of the two it began with.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Literal, get_args

import torch

from tombola._utils.errors import UsageError, unknown
from tombola.training.parallel.batched import Batched
from tombola.training.parallel.in_turn import InTurn
from tombola.training.parallel.turn import Executor, Work
from tombola.training.parallel.workers import Workers

Parallel = Literal["auto", "no", "workers", "batched"]

# Measured on two cores of a Xeon at 2.5 GHz, in processor time: a fork takes 30 to 70 ms, and its first steps
# about .3 s more than later ones (memory is copied when it is written to, kernels are made anew).
STEP = 0.3e-3  # seconds that the smallest step takes
# Multiplications a second; convolutions use a weight many times, so they take longer than this says.
RATE = 2e10
WORTH = 1.0  # seconds of work that pay for the start of workers


def settled(asked: str) -> Parallel:
    """What is asked for, with ``auto`` decided for this machine.

    Raises:
        UsageError: no such way, or workers where there can be none.
    """
    if asked not in get_args(Parallel):
        raise UsageError(unknown("way at once", asked, get_args(Parallel)))
    why_not = hindrance()
    if asked == "workers" and why_not:
        raise UsageError(f"no workers: {why_not}; leave out parallel")
    if asked == "auto":
        return "no" if why_not or cores() < 2 else "workers"
    return asked  # type: ignore[return-value]


def executor(parallel: str, work: Work, K: int, steps: int) -> Executor:
    """What takes the turns of a search; close it afterwards.

    Args:
        parallel: ``auto``, ``no``, ``workers`` or ``batched``.
        work: of the search.
        K: tickets; one alone is trained with all threads.
        steps: training steps that are left, of all tickets.
    """
    kind = settled(parallel) if parallel == "auto" else parallel
    if K < 2 or kind == "no":
        return InTurn(work)
    if kind == "batched":
        return Batched(work)
    if cores() < 2 or hindrance() or least_seconds(work, steps) < WORTH:
        return InTurn(work, threads=1)
    count = min(cores(), K)
    free = sorted(affinity())
    # Pinned only where they take all cores: a few of many would meet the workers of other programs.
    return Workers(work, count, free if count == len(free) else ())


def cores() -> int:
    """How many workers there may be: cores that this process may use, at most torch's threads."""
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


def least_seconds(work: Work, steps: int) -> float:
    """What so many training steps take at least on one core, from sizes alone."""
    problem = work.problems[0]
    products = 6 * problem.config.batch_size * problem.f.scope.size  # forward, and backward twice that
    return steps * (STEP + products / RATE)
