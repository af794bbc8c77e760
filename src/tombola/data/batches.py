"""Endless batches of sample numbers. Shape letter: B batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tombola._utils.rng import generator


class Stream:
    """Endless batches: the epochs of a subset one after another, cut into B samples each.

    Batch i is a function of the seed, the purpose and i alone, so a run goes on where it stopped; a subset
    smaller than the others begins again (the cyclic repetition of Algorithm 2), and every batch has exactly B
    samples.
    """

    def __init__(self, epoch: Callable[[torch.Generator], Tensor], batch: int, *key: Any) -> None:
        self.epoch, self.batch, self.key = epoch, batch, key
        self._cache: tuple[int, Tensor] = (-1, torch.empty(0))

    def _epoch(self, number: int) -> Tensor:
        if self._cache[0] != number:
            self._cache = number, self.epoch(generator(*self.key, "epoch", number))
        return self._cache[1]

    def __getitem__(self, i: int) -> Tensor:
        """Sample numbers of batch i, int64 ``[B]``."""
        length = len(self._epoch(max(self._cache[0], 0)))  # the same for every epoch
        number, offset = divmod(i * self.batch, length)
        parts: list[Tensor] = []
        missing = self.batch
        while missing:
            part = self._epoch(number)[offset : offset + missing]
            parts.append(part)
            missing -= len(part)
            number, offset = number + 1, 0
        return torch.cat(parts)
