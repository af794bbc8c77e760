"""K masks in few bits: how many tickets keep a weight, then which ones, one ticket after another.

Masks that come from one initialisation agree on most weights. First comes how many tickets keep each weight;
where neither all nor none do, ticket k is coded given how many of the tickets that are left keep the weight,
and which of the last few did. The size is near the empirical joint entropy ``H(m_1, .., m_K)`` of the bits of
a weight, at any similarity (``tests/test_coding.py``).

Codings, from the smallest: ``chain``, as above, by the entropy coder of `constriction` (the extra
``coding``); ``patterns``, the K bits of every weight through LZMA of the standard library at preset 6, on ten
CIFAR-10 tickets 1.20 to 1.28 times the joint entropy (at preset 2 1.46 to 1.51 times, in an eighth of the
time); ``plain``, one bit per weight and ticket. ``counts``, which coded a ticket without those before it, is
read in older files.
Shape letters: K tickets, N weights, A weights on which tickets differ, F of them that are open, C contexts.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import MaskError, needs

Array = NDArray[Any]
_CLASSES = 64
_WINDOWS = (0, 1, 2, 4, 8, 12)  # tickets of which a context says whether they keep the weight
# Chances, a byte each: sums of few powers of two, the same on all machines. 0 and 1 need no code.
_SMALL = [(8 + m) * 2.0 ** -(e + 3) for e in range(2, 18) for m in range(8)][:126]
_GRID = np.array(sorted([0.0, *_SMALL, 0.5, *(1 - p for p in _SMALL), 1.0]))
_DAMAGE = (KeyError, ValueError, IndexError, TypeError, RuntimeError, AssertionError, lzma.LZMAError)
_STRETCH = 1 << 17  # weights of a trial
_LZMA_MOST = 1 << 25  # bytes of patterns that LZMA is given: at preset 6 it writes about one million a second


def encode(masks_KN: Tensor, coding: str = "auto") -> dict[str, Tensor]:
    """Tensors that hold the masks; the names say which coding it is.

    Args:
        masks_KN: boolean ``[K, N]``.
        coding: ``chain``, ``patterns``, ``plain``, or ``auto``: the smallest of those that can be had.

    Raises:
        MissingExtra: ``chain`` without `constriction`.
        MaskError: there is no such coding.

    >>> masks = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 1]]).bool()
    >>> {name: t.tolist() for name, t in encode(masks, "plain").items()}
    {'masks': [[176], [144]]}
    >>> torch.equal(decode(encode(masks, "patterns"), 2, 4), masks)
    True
    """
    bits_KN = masks_KN.numpy().view(np.uint8)
    if coding == "auto":
        best = _plain(bits_KN)
        if bits_KN.size and find_spec("constriction"):
            best = min(best, _chain(bits_KN), key=_size)
        if _promising(bits_KN, _size(best)):
            best = min(best, _patterns(bits_KN), key=_size)
        return best
    if coding not in _WRITERS:
        raise MaskError(f"there is no coding {coding!r}; choose auto or one of {', '.join(_WRITERS)}")
    return _WRITERS[coding](bits_KN)


def decode(tensors: dict[str, Tensor], K: int, N: int) -> Tensor:
    """The masks, boolean ``[K, N]``; a `MaskError` where the tensors do not hold them, or are damaged."""
    try:
        if "masks" in tensors:
            bits = _read_plain(tensors["masks"], K, N)
        elif "masks.patterns" in tensors:
            bits = _read_patterns(tensors["masks.patterns"], K, N)
        elif "masks.chain" in tensors:
            bits = _read_chain(tensors, K, N)
        else:
            bits = _read_counts(tensors, K, N)
        if (checks := tensors.get("masks.checks")) is not None and (wrong := _checks(bits) != checks).any():
            raise ValueError(f"the mask of ticket {int(wrong.nonzero()[0])} is not what was written")
    except _DAMAGE as error:
        raise MaskError(f"the coded masks are damaged, or not {K} masks of {N:,} weights: {error}") from None
    return torch.from_numpy(bits.view(np.bool_))


# -- one bit per weight and ticket; patterns through LZMA -----------------------------------------------


def _plain(bits_KN: Array) -> dict[str, Tensor]:
    return {"masks": torch.from_numpy(np.packbits(bits_KN, axis=1))}


def _read_plain(packed: Tensor, K: int, N: int) -> Array:
    if packed.dtype != torch.uint8 or packed.shape != (K, -(-N // 8)):
        raise ValueError(f"packed masks have the shape {tuple(packed.shape)}")
    return np.unpackbits(packed.numpy(), axis=1, count=N)


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _small(K: int, N: int) -> bool:
    return 0 < N * -(-K // 8) <= _LZMA_MOST


def coded(K: int, N: int) -> bool:
    """Whether ``auto`` looks for another coding than one bit per weight and ticket."""
    return bool(K * N and find_spec("constriction")) or _small(K, N)


def _promising(bits_KN: Array, best: int) -> bool:
    """Whether patterns may take less than ``best`` bytes: they do where a stretch of them does."""
    K, N = bits_KN.shape
    if N <= _STRETCH or not _small(K, N):
        return _small(K, N)
    start = (N - _STRETCH) // 2
    return _size(_patterns(bits_KN[:, start : start + _STRETCH])) * N < 1.25 * best * _STRETCH


def _patterns(bits_KN: Array) -> dict[str, Tensor]:
    patterns = np.packbits(bits_KN, axis=0).T.tobytes()  # the bits of one weight lie together
    data = np.frombuffer(lzma.compress(patterns, preset=6), dtype=np.uint8)
    return {"masks.patterns": torch.from_numpy(data.copy()), "masks.checks": _checks(bits_KN)}


def _read_patterns(coded: Tensor, K: int, N: int) -> Array:
    reader = lzma.LZMADecompressor()
    length = N * -(-K // 8)
    # No more than there should be, whatever the stream claims.
    patterns = reader.decompress(coded.numpy().tobytes(), max_length=length + 1)
    flat = np.frombuffer(patterns, dtype=np.uint8).reshape(N, -(-K // 8))
    return np.stack([(flat[:, k // 8] >> (7 - k % 8)) & 1 for k in range(K)])


# -- counts, and ticket after ticket given the earlier ones -----------------------------------------------


def _chain(bits_KN: Array) -> dict[str, Tensor]:
    K, N = bits_KN.shape
    count_N = bits_KN.sum(0, dtype=np.int32)
    histogram = np.bincount(count_N, minlength=K + 1)
    bits_KA = bits_KN[:, (count_N > 0) & (count_N < K)]
    left_A, coder = np.zeros(bits_KA.shape[1], dtype=np.int32), _coder()
    windows, places = [], []
    for k in reversed(range(K)):  # the coder is a stack
        left_A += bits_KA[k]
        open_A = (left_A > 0) & (left_A < K - k)
        bits_F, found = bits_KA[k][open_A], _modelled(bits_KA, k, left_A, open_A)
        _, window, place_S, groups = min(found, key=lambda model: model[0])
        for place, group in zip(place_S[::-1], groups[::-1], strict=True):
            if 0 < _GRID[place] < 1:
                coder.encode_reverse(bits_F[group].astype(np.int32), _bernoulli(_GRID[place]))
        windows.append(window)
        places.append(place_S)
    if histogram.max() < N:
        coder.encode_reverse(count_N, _categorical(histogram))
    return {
        "masks.chain": _words(coder),
        "masks.histogram": torch.from_numpy(histogram),
        "masks.windows": torch.tensor(windows[::-1], dtype=torch.uint8),
        "masks.chances": torch.from_numpy(np.concatenate(places[::-1])),
        "masks.checks": _checks(bits_KN),
    }


def _modelled(
    bits_KA: Array, k: int, left_A: Array, open_A: Array
) -> Iterator[tuple[float, int, Array, list[Array]]]:
    """For each window: bits that it costs, itself; chances (places in `_GRID`) and weights of contexts."""
    bits_F = bits_KA[k][open_A]
    for window in (w for w in _WINDOWS if w <= k):
        groups = _groups(bits_KA, k, window, left_A, open_A)
        all_S = np.array([len(group) for group in groups], dtype=np.float64)
        ones_S = np.array([np.count_nonzero(bits_F[group]) for group in groups], dtype=np.float64)
        nearest_S = np.searchsorted((_GRID[1:-2] + _GRID[2:-1]) / 2, ones_S / all_S) + 1
        place_S = np.where(ones_S == 0, 0, np.where(ones_S == all_S, len(_GRID) - 1, nearest_S))
        chance_S = np.clip(_GRID[place_S], 1e-12, 1 - 1e-12)
        cost = -(ones_S * np.log2(chance_S) + (all_S - ones_S) * np.log2(1 - chance_S)).sum()
        yield float(cost) + 8 * len(place_S), window, place_S.astype(np.uint8), groups


def _groups(bits_KA: Array, k: int, window: int, left_A: Array, open_A: Array) -> list[Array]:
    """Open weights by what is known of them before ticket k: how many keep them yet, and which did."""
    context_F = left_A[open_A]
    for bits_A in bits_KA[k - window : k]:
        context_F = 2 * context_F + bits_A[open_A]
    size_C = np.bincount(context_F)
    small = context_F.astype(np.uint16) if len(size_C) < 2**16 else context_F  # a radix sort
    order = np.argsort(small, kind="stable")
    return np.split(order, np.cumsum(size_C[size_C > 0]))[:-1]


def _read_chain(tensors: dict[str, Tensor], K: int, N: int) -> Array:
    coder, histogram = _coder(tensors["masks.chain"]), _histogram(tensors, K, N)
    count_N = (
        coder.decode(_categorical(histogram), N) if histogram.max() < N else np.full(N, histogram.argmax())
    )
    differ_N = (count_N > 0) & (count_N < K)
    left_A, places = count_N[differ_N].astype(np.int32), iter(tensors["masks.chances"].tolist())
    bits_KA = np.zeros((K, len(left_A)), dtype=np.uint8)
    for k, window in zip(range(K), tensors["masks.windows"].tolist(), strict=True):
        if window not in _WINDOWS or window > k:
            raise ValueError(f"a window of {window} tickets")
        bits_KA[k], open_A = left_A == K - k, (left_A > 0) & (left_A < K - k)
        bits_F = np.zeros(np.count_nonzero(open_A), dtype=np.uint8)
        for group in _groups(bits_KA, k, window, left_A, open_A):
            chance = _GRID[next(places, len(_GRID))]
            varied = 0 < chance < 1
            bits_F[group] = coder.decode(_bernoulli(chance), len(group)) if varied else chance
        bits_KA[k][open_A] = bits_F
        left_A -= bits_KA[k]
    bits_KN = np.tile((count_N == K).view(np.uint8), (K, 1))
    bits_KN[:, differ_N] = bits_KA
    return bits_KN


def _histogram(tensors: dict[str, Tensor], K: int, N: int) -> Array:
    histogram: Array = tensors["masks.histogram"].numpy()
    if histogram.shape != (K + 1,) or histogram.min() < 0 or histogram.sum() != N:
        raise ValueError("the histogram of counts does not fit")
    return histogram


def _bernoulli(chance: float) -> Any:
    return _constriction().model.Bernoulli(float(chance), perfect=False)


# -- older files: counts, and who given the count ---------------------------------------------------------


def _read_counts(tensors: dict[str, Tensor], K: int, N: int) -> Array:
    histogram, ones_KC = _histogram(tensors, K, N), tensors["masks.ones"].numpy()
    coder = _coder(tensors["masks.counts"])
    varied = histogram.max() < N
    count_N = coder.decode(_categorical(histogram), N) if varied else np.full(N, histogram.argmax())
    places = list(_places(count_N, K))
    bits_KN = np.tile((count_N == K).view(np.uint8), (K, 1))
    for k, row in enumerate(bits_KN):
        coder = _coder(tensors[f"masks.{k}"])
        for place, ones in zip(places, ones_KC[k].astype(np.int64), strict=True):
            if 0 < ones < len(place):
                row[place] = coder.decode(_categorical([len(place) - ones, ones]), len(place))
            else:
                row[place] = ones > 0
    return bits_KN


def _places(count_N: Array, K: int) -> Iterator[Array]:
    """The places of each class of counts: one by one up to 64 tickets, in 64 ranges beyond."""
    edges = np.linspace(1, K, min(K - 1, _CLASSES) + 1).astype(np.int64)  # from 1 to K; of one ticket just 1
    for low, high in pairwise(edges):
        yield np.flatnonzero((count_N >= low) & (count_N < high))


def _categorical(counts: Sequence[int] | Array) -> Any:
    share = np.asarray(counts, dtype=np.float64)
    return _constriction().model.Categorical((share / share.sum()).astype(np.float32), perfect=False)


def _constriction() -> Any:
    with needs("coding", "masks coded one after another"):
        import constriction
    return constriction.stream


def _coder(words: Tensor | None = None) -> Any:
    coder = _constriction().stack.AnsCoder
    return coder() if words is None else coder(words.numpy().view(np.uint32))


def _words(coder: Any) -> Tensor:
    return torch.from_numpy(coder.get_compressed().view(np.int32).copy())


def _checks(bits_KN: Array) -> Tensor:
    """CRC-32 of every mask, packed: int64 ``[K]``."""
    return torch.tensor([zlib.crc32(np.packbits(row).tobytes()) for row in bits_KN], dtype=torch.int64)


_WRITERS = {"chain": _chain, "patterns": _patterns, "plain": _plain}
