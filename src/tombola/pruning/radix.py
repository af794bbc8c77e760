"""The highest scores by the bits of numbers: two reads of the scores as a rule, and no copy.

The bits of a float, read as an unsigned integer and mirrored where it is negative, are in the order of the
floats. A sample says between which two of these keys the threshold should lie. One read counts what is below
the two and collects what is between, a few percent, of which NumPy takes the threshold; a second one writes
the mask. Where the threshold is not there, or too many scores are (ties), it is found 16 bits at a time:
count the scores by their 16 highest bits, then those of the threshold's bin by the next 16 (a radix select).

The result is that of the path without a compiler (`tombola.pruning.top`), bit for bit. Beside the mask this
takes at most an eighth of the scores, by rule a thirtieth, or one MiB of counts per thread.

Shape letters: N weights, S sampled scores, P parts of the scores with a thread each.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from tombola._utils import native
from tombola._utils.native.threads import bounds, in_parts

SMALLEST = 1 << 20  # scores: below, a partition of all of them takes no longer
SMALLEST_MASKED = 1 << 16  # below, neither does a partition of the eligible
_PER_THREAD = 1 << 18
_BINS, _TABLES, _SAMPLE = 1 << 16, 4, 1 << 15


@dataclass(frozen=True)
class _Kind:
    between: Callable[..., int]
    top: Callable[..., int]
    below: Callable[..., None]
    mark: Callable[..., None]
    word: np.dtype
    infinity: int  # its bits

    @property
    def digits(self) -> int:
        """Of 16 bits."""
        return self.word.itemsize // 2


@dataclass(frozen=True)
class _Place:
    """The key of the threshold, how many equal to it are pruned, and how many of those each part has."""

    key: int
    skip: int
    ties_P: np.ndarray


class Keys:
    """Scores of which ``keep`` are wanted.

    Attributes:
        nan: whether there is a NaN among the eligible.
        count: how many are eligible.
    """

    def __init__(self, kind: _Kind, scores_N: Tensor, eligible_N: Tensor | None, keep: int) -> None:
        self._kind, self._scores_N, self._eligible_N = kind, scores_N, eligible_N
        self._bounds = bounds(len(scores_N), _PER_THREAD)
        self.count = len(scores_N) if eligible_N is None else int(eligible_N.count_nonzero())
        self.nan = False
        self._keep, self._place = keep, None
        if 0 < keep < self.count:
            self._place = self._between(self.count - keep)
        if self._place is None and not self.nan:
            self._place = self._by_digits(self.count - keep)

    @classmethod
    def of(cls, scores_N: Tensor, eligible_N: Tensor | None, keep: int) -> Keys | None:
        """None where there is no kernel, or it would not pay."""
        tensors = [scores_N] if eligible_N is None else [scores_N, eligible_N]
        plain = all(t.device.type == "cpu" and t.dim() == 1 and t.is_contiguous() for t in tensors)
        smallest = SMALLEST if eligible_N is None else SMALLEST_MASKED
        if not plain or not smallest <= len(scores_N) < 1 << 32:
            return None
        kind = _kind(scores_N.dtype)
        return None if kind is None else cls(kind, scores_N, eligible_N, keep)

    def highest(self) -> Tensor:
        """Boolean ``[N]``: the highest of the eligible; of equal scores the last ones."""
        place = self._place
        if place is None:
            if self._keep and self._eligible_N is not None:
                return self._eligible_N.clone()
            return torch.full_like(self._scores_N, self._keep > 0, dtype=torch.bool)
        earlier_P = place.ties_P.cumsum() - place.ties_P
        mask_N = torch.from_numpy(np.empty(len(self._scores_N), np.bool_))  # in huge pages, unlike torch's

        def mark(part: int, start: int, end: int) -> None:
            skip, out = max(0, place.skip - int(earlier_P[part])), mask_N.data_ptr() + start
            self._kind.mark(end - start, *self._at(start), place.key, skip, out)

        in_parts(len(mask_N), _PER_THREAD, mark)
        return mask_N

    def _between(self, rank: int) -> _Place | None:
        """The threshold from what lies around its place in a sample; None if it is not there."""
        kind, (low, high) = self._kind, self._bracket(rank)
        sizes = np.diff(self._bounds) // 8 + 2048
        keys_P = [np.empty(size, kind.word) for size in sizes]
        facts_P = np.zeros((len(sizes), 3), np.int64)  # keys collected, keys below, NaN

        def between(part: int, start: int, end: int) -> None:
            out, metadata = keys_P[part], facts_P[part]
            places = out.ctypes.data, len(out), metadata[1:].ctypes.data, metadata[2:].ctypes.data
            metadata[0] = kind.between(end - start, *self._at(start), kind.infinity, low, high, *places)

        in_parts(len(self._scores_N), _PER_THREAD, between)
        found_P, self.nan = facts_P[:, 0], bool(facts_P[:, 2].any())
        if self.nan or (found_P < 0).any():
            return None
        rank -= int(facts_P[:, 1].sum())
        if not 0 < rank <= found_P.sum():
            return None
        parts = [keys[:found] for keys, found in zip(keys_P, found_P, strict=True)]
        keys = np.concatenate(parts)
        key = np.partition(keys, rank - 1)[rank - 1]
        ties_P = np.array([np.count_nonzero(part == key) for part in parts])
        return _Place(int(key), rank - int(np.count_nonzero(keys < key)), ties_P)

    def _bracket(self, rank: int) -> tuple[int, int]:
        """Two keys, four standard deviations of a sample below and above the rank."""
        N, word = len(self._scores_N), self._kind.word
        steps = np.arange(_SAMPLE, dtype=np.uint64) * np.uint64(2654435769) % np.uint64(1 << 32)
        at_S = torch.from_numpy((steps * np.uint64(N) >> np.uint64(32)).astype(np.int64))  # no row's rhythm
        at_S = at_S if self._eligible_N is None else at_S[self._eligible_N[at_S]]
        bits_S = self._scores_N[at_S].numpy().view(word)
        sign = word.type(1 << (8 * word.itemsize - 1))
        keys_S = np.where(bits_S == sign, sign, np.where(bits_S & sign, ~bits_S, bits_S | sign))
        keys_S.sort()
        S = len(keys_S)
        at, around = rank / self.count * S, 2 * S**0.5
        low, high = int(at - around), int(at + around) + 1
        most = int(np.iinfo(word).max)
        return int(keys_S[low]) if low >= 0 else 0, int(keys_S[high]) if high < S else most

    def _by_digits(self, rank: int) -> _Place | None:
        """The threshold by counting; None if there is none, or a NaN."""
        tables_P = np.zeros((len(self._bounds) - 1, _TABLES, _BINS), np.uint32)
        nan_P = [0] * len(tables_P)
        kind = self._kind

        def top(part: int, start: int, end: int) -> None:
            counts = tables_P[part].ctypes.data
            nan_P[part] = kind.top(end - start, *self._at(start), kind.infinity, counts)

        def below(part: int, start: int, end: int) -> None:
            counts = tables_P[part].ctypes.data
            kind.below(end - start, *self._at(start), 16 * (left - 1), key, counts)

        in_parts(len(self._scores_N), _PER_THREAD, top)
        self.nan = any(nan_P)
        if self.nan or not 0 < rank < self.count:
            return None
        key = 0
        for left in reversed(range(kind.digits)):  # digits after this one
            counts_P = _sum(tables_P)
            total = counts_P.sum(0, dtype=np.int64).cumsum()
            digit = int(np.searchsorted(total, rank))
            rank -= int(total[digit - 1]) if digit else 0
            key = key << 16 | digit
            if left:
                tables_P[:] = 0
                in_parts(len(self._scores_N), _PER_THREAD, below)
        return _Place(key, rank, counts_P[:, digit].astype(np.int64))

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
    words = {torch.float32: ("float32", ctypes.c_uint32), torch.float64: ("float64", ctypes.c_uint64)}
    if library is None or dtype not in words or sys.byteorder != "little":
        return None
    name, word = words[dtype]
    place, size = ctypes.c_void_p, ctypes.c_long
    between, top, below, mark = (
        getattr(library, f"{step}_{name}") for step in ("between", "top", "below", "mark")
    )
    between.argtypes = [size, place, place, word, word, word, place, size, place, place]
    between.restype = size
    top.argtypes, top.restype = [size, place, place, word, place], ctypes.c_int
    below.argtypes, below.restype = [size, place, place, ctypes.c_int, word, place], None
    mark.argtypes, mark.restype = [size, place, place, word, size, place], None
    infinity = int(np.array(np.inf, name).view(word))
    return _Kind(between, top, below, mark, np.dtype(word), infinity)
