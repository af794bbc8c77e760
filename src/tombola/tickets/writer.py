"""A ticket file that is written as its masks are made: neither weights nor masks are ever all in memory.

Shape letters: K tickets, N weights in scope, n of them in one layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import torch
from torch import Tensor

from tombola._utils.io import Spooled, raw

CHUNK = 1 << 24  # bytes that are copied at once


class TicketWriter:
    """Masks of K tickets and the weights that any of them keeps, layer by layer, into temporary files.

    >>> with TicketWriter(1) as writer:
    ...     writer.add(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[True, False, True]]))
    ...     {name: (t.shape, list(map(bytes, t.content()))) for name, t in writer.tensors().items()}
    {'weights': ((2,), [b'\\x00\\x00\\x80?\\x00\\x00@@']), 'masks': ((1, 1), [b'\\xa0'])}
    """

    def __init__(self, tickets: int, folder: Path | None = None) -> None:
        self._weights, *self._masks = (
            tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
            for _ in range(1 + tickets)
        )
        self._left: Sequence[np.ndarray] = [np.zeros(0, dtype=np.uint8)] * tickets  # bits of no whole byte
        self._union, self._dtype = 0, torch.float32

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._weights, *self._masks):
            file.close()

    def add(self, weights_n: Tensor, masks_Kn: Tensor) -> None:
        """The next layer of the scope: its weights, and the masks of all tickets."""
        kept = weights_n[masks_Kn.any(0)]
        self._union, self._dtype = self._union + len(kept), weights_n.dtype
        self._weights.write(raw(kept))
        rows = masks_Kn.numpy().view(np.uint8)
        bits = [np.concatenate(pair) for pair in zip(self._left, rows, strict=True)]
        whole = len(bits[0]) // 8 * 8
        for file, row in zip(self._masks, bits, strict=True):
            file.write(np.packbits(row[:whole]).data)
        self._left = [row[whole:] for row in bits]

    def tensors(self) -> dict[str, Spooled]:
        """What is there after the last layer, under the names of a ticket file."""
        for file, row in zip(self._masks, self._left, strict=True):
            file.write(np.packbits(row).data)
        self._left = [row[:0] for row in self._left]
        each = self._masks[0].tell()
        masks = Spooled(
            torch.uint8, (len(self._masks), each), lambda: (p for f in self._masks for p in _pieces(f))
        )
        return {
            "weights": Spooled(self._dtype, (self._union,), lambda: _pieces(self._weights)),
            "masks": masks,
        }


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(CHUNK):
        yield piece
