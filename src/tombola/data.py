"""Data in memory: three splits that are three things, and endless batches of indices into them.

Shape letters: S samples of a split, B batch, K tickets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola.errors import DataError, unknown
from tombola.randomness import generator

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Inputs ``x [S, ...]``, targets ``y [S, ...]`` and further columns of S values each.

    Raises:
        DataError: no samples, lengths that differ, NaN or infinite values.
    """

    x: Tensor
    y: Tensor
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.x) == 0:
            raise DataError("a split has no samples")
        lengths = {"y": len(self.y), **{name: len(c) for name, c in self.columns.items()}}
        wrong = {name: n for name, n in lengths.items() if n != len(self.x)}
        if wrong:
            raise DataError(f"x has {len(self.x)} samples, but {wrong}: one value per sample is needed")
        for name, values in (("x", self.x), ("y", self.y)):
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                bad = (~torch.isfinite(values.reshape(len(values), -1)).all(1)).nonzero()[:, 0]
                raise DataError(
                    f"{name} holds NaN or infinite values in {len(bad)} samples (the first is number "
                    f"{int(bad[0])}): remove or replace them"
                )

    def __len__(self) -> int:
        return len(self.x)

    def column(self, name: str) -> np.ndarray:
        """A column as an array ``[S]``; ``"y"`` is one of them."""
        if name == "y":
            return self.y.numpy()
        if name not in self.columns:
            raise DataError(unknown("column", name, ["y", *self.columns]))
        return np.asarray(self.columns[name])

    def take(self, index: Tensor) -> Split:
        """The samples at these positions."""
        columns = {name: np.asarray(c)[index.numpy()] for name, c in self.columns.items()}
        return Split(self.x[index], self.y[index], columns)


def same(x: Tensor) -> Tensor:
    """The default ``prepare``: inputs as they are."""
    return x


@dataclass(frozen=True)
class Data:
    """Train, validation and test samples, and how a batch becomes the network's input.

    Training reads ``train``; thresholds and choices come from ``validation``; ``test`` is read once,
    at the end. ``augment(x, generator)`` sees training batches only, as they are stored;
    ``prepare(x)`` then turns any batch into what the network takes (uint8 to float, say).
    """

    train: Split
    validation: Split
    test: Split
    prepare: Callable[[Tensor], Tensor] = same
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    @classmethod
    def of(
        cls,
        x: Any,
        y: Any,
        columns: Mapping[str, Any] | None = None,
        *,
        validation: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        **options: Any,
    ) -> Data:
        """Split arrays or tensors at random into train, validation and test.

        >>> data = Data.of(torch.rand(100, 8), torch.arange(100) % 2, validation=0.1, test=0.2)
        >>> len(data.train), len(data.validation), len(data.test)
        (70, 10, 20)
        """
        arrays = {name: np.asarray(values) for name, values in (columns or {}).items()}
        whole = Split(torch.as_tensor(x), torch.as_tensor(y), arrays)
        parts = (round(len(whole) * validation), round(len(whole) * test))
        if min(parts) < 1 or sum(parts) >= len(whole):
            raise DataError(
                f"{len(whole)} samples cannot be split into validation={validation} and test={test}: "
                "every split needs at least one sample"
            )
        order = torch.randperm(len(whole), generator=generator(seed, "split"))
        val, tst, trn = order.split([*parts, len(whole) - sum(parts)])
        return cls(whole.take(trn), whole.take(val), whole.take(tst), **options)

    @classmethod
    def from_dataset(cls, dataset: Any, **options: Any) -> Data:
        """Read a map-style ``torch.utils.data.Dataset`` of ``(x, y)`` pairs once, then as `of`."""
        pairs = [dataset[i] for i in range(len(dataset))]
        if not pairs:
            raise DataError("the data set has no samples")
        x = torch.stack([torch.as_tensor(a) for a, _ in pairs])
        return cls.of(x, torch.stack([torch.as_tensor(b) for _, b in pairs]), **options)

    def tuning(self) -> Data:
        """The same without its test split: one half of validation is judged, the other one chooses."""
        first, second = torch.arange(len(self.validation)).chunk(2)
        halves = self.validation.take(first), self.validation.take(second)
        return replace(self, validation=halves[0], test=halves[1])

    def split(self, name: str) -> Split:
        """A split by its name: train, validation or test."""
        if name not in SPLITS:
            raise DataError(unknown("split", name, SPLITS))
        part: Split = getattr(self, name)
        return part

    def inputs(self, split: str, index: Tensor, augment: torch.Generator | None = None) -> Tensor:
        """The network's input for these samples, augmented if a generator is given."""
        x = self.split(split).x[index]
        if augment is not None and self.augment is not None:
            x = self.augment(x, augment)
        return self.prepare(x)


class Stream:
    """Endless batches: the epochs of a subset one after another, cut into B samples each.

    ``epoch(generator)`` returns the sample numbers of one epoch in a new order. Batch i is a function
    of the seed, the purpose and i alone, so a run goes on where it stopped; a subset smaller than the
    others begins again (the cyclic repetition of Algorithm 2), and every batch has exactly B samples.
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
