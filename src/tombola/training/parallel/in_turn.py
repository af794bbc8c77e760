"""One after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from tombola.training.parallel.turn import Turn, TurnResult, Work


class InTurn:
    """Each turn is taken when its result is wanted (a `tombola.training.parallel.Executor`).

    Args:
        work: what they consist of.
        threads: of each training; all that torch has by default. With one the bits are those of
            `tombola.training.parallel.workers.Workers`.
    """

    whole = False

    def __init__(self, work: Work, threads: int | None = None) -> None:
        self.work, self.threads = work, threads

    def __call__(self, turns: Sequence[Turn]) -> Iterator[TurnResult]:
        """The results in order, none before it is wanted."""
        for turn in turns:
            with threads(self.threads):
                result = self.work.take(turn)
            yield result

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes with so many threads (None: as it does); afterwards with as many as before.

    >>> before = torch.get_num_threads()
    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
