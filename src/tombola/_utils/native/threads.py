"""A range of entries in parts, a thread for each: kernels let go of Python's lock while they work."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from threading import Thread

import torch


def in_parts(count: int, each: int, work: Callable[[int, int, int], None]) -> None:
    """Call ``work(part, start, end)`` for every part of ``range(count)``, and wait for all of them.

    Args:
        count: entries.
        each: how many are worth a thread; there are at most as many as torch uses.
        work: must not raise.

    >>> spans = {}
    >>> in_parts(10, 10, lambda part, start, end: spans.update({part: (start, end)}))
    >>> spans
    {0: (0, 10)}
    """
    first, *others = enumerate(pairwise(bounds(count, each)))
    threads = [Thread(target=work, args=(part, *span)) for part, span in others]
    for thread in threads:
        thread.start()
    work(first[0], *first[1])
    for thread in threads:
        thread.join()


def bounds(count: int, each: int) -> list[int]:
    """Where the parts begin, and the end: one more than there are parts."""
    parts = max(1, min(torch.get_num_threads(), count // each))
    return [count * part // parts for part in range(parts + 1)]
