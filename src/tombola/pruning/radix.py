"""The highest scores by counting their bits: three reads of float32 scores, five of float64, and no copy.

The bits of a float, read as an unsigned integer and mirrored where it is negative, are in the order of the
floats. So the threshold is found 16 bits at a time (a radix select): count the scores by their 16 highest
bits, see in which bin the threshold lies, count those of this bin by the next 16 bits. A last read writes
the mask. Beside the mask this takes one MiB of counts per thread. The result is that of the path without a
compiler (`tombola.pruning.top`), bit for bit.

Shape letters: N weights, P parts of the scores with a thread each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from tombola import native
from tombola.native.threads import bounds, in_parts

SMALLEST = 1 << 20  # scores: below, a partition of all of them takes no longer
SMALLEST_MASKED = 1 << 16  # below, neither does a partition of the eligible
_PER_THREAD = 1 << 18
_BINS, _TABLES = 1 << 16, 4


@dataclass(frozen=True)
class _Kind:
    top: Callable[..., int]
    below: Callable[..., None]
    mark: Callable[..., None]
    digits: int  # of 16 bits
    infinity: int  # its bits


class Keys:
    """Scores counted by their highest bits.

    Attributes:
        nan: whether there is a NaN among the eligible.
        count: how many are eligible.
    """

    def __init__(self, kind: _Kind, scores_N: Tensor, eligible_N: Tensor | None) -> None:
        self._kind, self._scores_N, self._eligible_N = kind, scores_N, eligible_N
        P = len(bounds(len(scores_N), _PER_THREAD)) - 1
        self._tables_P = np.zeros((P, _TABLES, _BINS), np.uint32)
        nan_P = [0] * P

        def top(part: int, start: int, end: int) -> None:
            at = self._at(start)
            nan_P[part] = kind.top(end - start, *at, kind.infinity, self._tables_P[part].ctypes.data)

        in_parts(len(scores_N), _PER_THREAD, top)
        self.nan = any(nan_P)
        self._counts_P = _sum(self._tables_P)
        self.count = int(self._counts_P.sum(dtype=np.int64))

    @classmethod
    def of(cls, scores_N: Tensor, eligible_N: Tensor | None) -> Keys | None:
        """None where there is no kernel, or it would not pay."""
        tensors = [scores_N] if eligible_N is None else [scores_N, eligible_N]
        plain = all(t.device.type == "cpu" and t.dim() == 1 and t.is_contiguous() for t in tensors)
        smallest = SMALLEST if eligible_N is None else SMALLEST_MASKED
        if not plain or not smallest <= len(scores_N) < 1 << 32:
            return None
        kind = _kind(scores_N.dtype)
        return None if kind is None else cls(kind, scores_N, eligible_N)

    def highest(self, keep: int) -> Tensor:
        """Boolean ``[N]``: the highest ``keep`` of the eligible; of equal scores the last ones. Once only."""
        if keep in (0, self.count):
            if keep and self._eligible_N is not None:
                return self._eligible_N.clone()
            return torch.full_like(self._scores_N, keep > 0, dtype=torch.bool)
        threshold, skip, ties_P = self._threshold(self.count - keep)
        earlier_P = np.cumsum(ties_P, dtype=np.int64) - ties_P
        mask_N = torch.empty(len(self._scores_N), dtype=torch.bool)

        def mark(part: int, start: int, end: int) -> None:
            left = max(0, skip - int(earlier_P[part]))
            out = mask_N.data_ptr() + start
            self._kind.mark(end - start, *self._at(start), threshold, left, out)

        in_parts(len(mask_N), _PER_THREAD, mark)
        return mask_N

    def _threshold(self, rank: int) -> tuple[int, int, np.ndarray]:
        """The key of this rank from below, how many equal to it are pruned, and how many each part has."""
        key, counts_P = 0, self._counts_P
        for left in reversed(range(self._kind.digits)):  # digits after this one
            total = counts_P.sum(0, dtype=np.int64).cumsum()
            digit = int(np.searchsorted(total, rank))
            rank -= int(total[digit - 1]) if digit else 0
            key = key << 16 | digit
            if left:
                counts_P = self._below(key, 16 * (left - 1))
        return key, rank, counts_P[:, digit]

    def _below(self, prefix: int, shift: int) -> np.ndarray:
        self._tables_P[:] = 0

        def below(part: int, start: int, end: int) -> None:
            self._kind.below(end - start, *self._at(start), shift, prefix, self._tables_P[part].ctypes.data)

        in_parts(len(self._scores_N), _PER_THREAD, below)
        return _sum(self._tables_P)

    def _at(self, start: int) -> tuple[int, int | None]:
        """Where the scores and the eligible from ``start`` on lie in memory."""
        scores = self._scores_N.data_ptr() + start * self._scores_N.element_size()
        return scores, None if self._eligible_N is None else self._eligible_N.data_ptr() + start


def _sum(tables_P: np.ndarray) -> np.ndarray:
    first, *others = tables_P.swapaxes(0, 1)
    total = first.copy()
    for table in others:
        total += table  # in place and of one dtype: ten times faster than a reduction
    return total


@cache
def _kind(dtype: torch.dtype) -> _Kind | None:
    library = native.load()
    words = {torch.float32: ("float32", ctypes.c_uint32, 2), torch.float64: ("float64", ctypes.c_uint64, 4)}
    if library is None or dtype not in words:
        return None
    name, word, digits = words[dtype]
    place, size = ctypes.c_void_p, ctypes.c_long
    top, below, mark = (getattr(library, f"{step}_{name}") for step in ("top", "below", "mark"))
    top.argtypes, top.restype = [size, place, place, word, place], ctypes.c_int
    below.argtypes, below.restype = [size, place, place, ctypes.c_int, word, place], None
    mark.argtypes, mark.restype = [size, place, place, word, size, place], None
    infinity = np.array(np.inf, name).view(f"uint{16 * digits}")
    return _Kind(top, below, mark, digits, int(infinity))
