"""One after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from tombola.together.turn import Asked, Turned, Turns


class InTurn:
    """Each turn is taken when it is asked for (a `tombola.together.Way`).

    Args:
        turns: what they consist of.
        threads: of each training; all that torch has by default. With one the bits are those of
            `tombola.together.workers.Workers`.
    """

    whole = False

    def __init__(self, turns: Turns, threads: int | None = None) -> None:
        self.turns, self.threads = turns, threads

    def __call__(self, asked: Sequence[Asked]) -> Iterator[Turned]:
        """The turns in order, none before it is wanted."""
        for one in asked:
            with threads(self.threads):
                turned = self.turns.take(one)
            yield turned

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
