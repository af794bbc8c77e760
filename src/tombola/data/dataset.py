"""Data in memory, or mapped: three splits that are three things.

Shape letters: S samples of a split, B batch, K tickets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.device import CPU
from tombola._utils.errors import DataError, unknown
from tombola._utils.rng import generator

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Inputs ``x [S, ...]``, targets ``y [S, ...]`` and further columns of S values each.

    Inputs are a tensor, or a tuple, dictionary or nest of tensors with a row per sample, with which the
    network is called as ``net(x)``, ``net(*x)`` or ``net(**x)``. Arrays and lists become tensors, and float64
    becomes torch's default dtype (float32), which is that of networks. Integers stay what they are, for
    embeddings and images: ``prepare`` makes them floats.

    Raises:
        DataError: not numbers, no samples, lengths that differ, NaN or infinite values.
    """

    x: Batch
    y: Tensor
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {name: np.asarray(values) for name, values in self.columns.items()}
        object.__setattr__(self, "x", _inputs(self.x))
        object.__setattr__(self, "y", _tensor("y", self.y))
        object.__setattr__(self, "columns", columns)
        every = {**{f"x{path}": t for path, t in batch.tensors(self.x).items()}, "y": self.y}
        if min(t.ndim for t in every.values()) == 0:
            raise DataError("x or y is a single number: one value per sample is needed")
        if len(self) == 0:
            raise DataError("a split has no samples")
        lengths = {name: len(c) for each in (every, columns) for name, c in each.items()}
        wrong = {name: n for name, n in lengths.items() if n != len(self)}
        if wrong:
            raise DataError(f"x has {len(self)} samples, but {wrong}: one value per sample is needed")
        for name, values in every.items():
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                bad = (~torch.isfinite(values.reshape(len(values), -1)).all(1)).nonzero()[:, 0]
                raise DataError(
                    f"{name} holds NaN or infinite values in {len(bad)} samples (the first is number "
                    f"{int(bad[0])}): remove or replace them"
                )

    def __len__(self) -> int:
        return batch.size(self.x)

    def __repr__(self) -> str:
        columns = f", columns={list(self.columns)}" if self.columns else ""
        return f"Split({len(self)} samples, x={_shape(self.x)}, y={_shape(self.y)}{columns})"

    def column(self, name: str) -> np.ndarray:
        """A column as an array ``[S]``; ``"y"`` is one of them."""
        if name != "y" and name not in self.columns:
            raise DataError(unknown("column", name, ["y", *self.columns]))
        values = self.y.numpy() if name == "y" else self.columns[name]
        if values.ndim != 1:
            raise DataError(
                f"{name} has shape {values.shape}, but subsets need one value per sample: flatten "
                "(S, 1) with .reshape(-1), turn one-hot into classes with .argmax(1)"
            )
        return values

    def take(self, index: Tensor | slice) -> Split:
        """The samples at these positions; those of a slice are shared, not copied."""
        numbers = index if isinstance(index, slice) else index.numpy()
        columns = {name: c[numbers] for name, c in self.columns.items()}
        return Split(batch.take(self.x, index), self.y[index], columns)


def _shape(samples: Batch) -> str:
    """Dtype and shape of one sample."""
    if not isinstance(samples, Tensor):
        return str(batch.mapped(_shape, samples)).replace("'", "")
    return f"{str(samples.dtype).removeprefix('torch.')}{list(samples.shape[1:])}"


def _inputs(x: Any) -> Batch:
    """Inputs as a tensor, or as a tuple or dictionary of such."""
    if isinstance(x, Mapping):
        found: Batch = {name: _inputs(part) for name, part in x.items()}
    elif isinstance(x, tuple):
        found = tuple(map(_inputs, x))
    else:
        return _tensor("x", x)
    if not found:
        raise DataError(f"x is an empty {type(x).__name__}: name its parts")
    return found


def _tensor(name: str, values: Any) -> Tensor:
    """Values as a tensor, float64 as torch's default dtype; `DataError` where they are not numbers."""
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values, order="C")
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{name} cannot become one tensor; all samples need the same shape: {error}"
            ) from None
        if array.dtype.kind not in "biuf":
            kind = "strings" if array.dtype.kind in "US" else f"{array.dtype} values"
            raise DataError(
                f"{name} holds {kind}, not numbers: put strings into columns={{NAME: values}} "
                "for tombola.partition.by_column, and give y as integers "
                "(numpy.unique(labels, return_inverse=True)[1])"
            )
        values = torch.as_tensor(array)
    return values.to(torch.get_default_dtype()) if values.dtype == torch.float64 else values


def _stack(name: str, values: list[Any]) -> Tensor:
    tensors = [_tensor(name, value) for value in values]
    for i, other in enumerate(tensors):
        if other.shape != tensors[0].shape:
            raise DataError(
                f"{name} of sample 0 has shape {tuple(tensors[0].shape)}, of sample {i} "
                f"{tuple(other.shape)}: crop or pad them to one shape"
            )
    return torch.stack(tensors)


def _stacked(samples: list[Any]) -> Batch:
    one = samples[0]
    if isinstance(one, Mapping):
        return {name: _stacked([sample[name] for sample in samples]) for name in one}
    if isinstance(one, tuple):
        return tuple(_stacked([sample[i] for sample in samples]) for i in range(len(one)))
    return _stack("x", samples)


def same(x: Batch) -> Batch:
    """The default ``prepare``: inputs as they are."""
    return x


@dataclass(frozen=True)
class Data:
    """Train, validation and test samples, and how a batch becomes the network's input.

    Training reads ``train``; thresholds and choices come from ``validation``; ``test`` is read once,
    at the end. ``augment(x, generator)`` sees training batches only, as they are stored;
    ``prepare(x)`` then turns any batch into what the network takes (uint8 to float, say). With
    ``contexts``, the number of the subset of every sample ``[S]`` per split, the network is told it
    (`with_context`).
    """

    train: Split
    validation: Split
    test: Split
    prepare: Callable[[Batch], Batch] = same
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    contexts: Mapping[str, Tensor] | None = None

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
        prepare: Callable[[Batch], Batch] = same,
        augment: Callable[[Batch, torch.Generator], Batch] | None = None,
    ) -> Data:
        """Split arrays or tensors at random into train, validation and test.

        ``validation`` and ``test`` are shares; ``columns`` hold what subsets are made of, a value per sample
        each. float64 becomes float32 (see `Split`); integers that are no token numbers need
        ``prepare=Tensor.float``.

        >>> data = Data.of(torch.rand(100, 8), torch.arange(100) % 2, validation=0.1, test=0.2)
        >>> len(data.train), len(data.validation), len(data.test)
        (70, 10, 20)
        >>> data
        Data(train=70, validation=10, test=20 samples, x=float32[8], y=int64[])
        """
        if columns is not None and not isinstance(columns, Mapping):
            raise DataError(f'columns are named, {{"camera": values}}: got {type(columns).__name__}')
        whole = Split(x, y, columns or {})
        parts = (round(len(whole) * validation), round(len(whole) * test))
        if min(parts) < 1 or sum(parts) >= len(whole):
            raise DataError(
                f"{len(whole)} samples cannot be split into validation={validation} and test={test}: "
                "every split needs at least one sample (thresholds are chosen on validation), so give "
                "shares above 0 that sum to less than 1, or more samples"
            )
        order = torch.randperm(len(whole), generator=generator(seed, "split"))
        val, tst, trn = order.split([*parts, len(whole) - sum(parts)])
        return cls(whole.take(trn), whole.take(val), whole.take(tst), prepare, augment)

    @classmethod
    def from_dataset(cls, dataset: Any, **options: Any) -> Data:
        """Read a map-style ``torch.utils.data.Dataset`` of ``(x, y)`` pairs once, then as `of`."""
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"from_dataset needs len(dataset) and dataset[i], which {type(dataset).__name__} lacks: "
                "pass loader.dataset of a DataLoader, list(...) of an iterator"
            )
        pairs = [dataset[i] for i in range(len(dataset))]
        if not pairs:
            raise DataError("the data set has no samples")
        if any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
            raise DataError("from_dataset needs dataset[i] to be a pair (x, y): wrap it, or use Data.of")
        return cls.of(_stacked([x for x, _ in pairs]), _stack("y", [y for _, y in pairs]), **options)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={len(self.split(name))}" for name in SPLITS)
        return f"Data({counts} samples, x={_shape(self.train.x)}, y={_shape(self.train.y)})"

    def tuning(self) -> Data:
        """The same without its test split: one half of validation is judged, the other one chooses."""
        middle = (len(self.validation) + 1) // 2
        first, second = (self.validation.take(part) for part in (slice(middle), slice(middle, None)))
        return replace(self, validation=first, test=second)

    def split(self, name: str) -> Split:
        """A split by its name: train, validation or test."""
        if name not in SPLITS:
            raise DataError(unknown("split", name, SPLITS))
        part: Split = getattr(self, name)
        return part

    def inputs(
        self, split: str, index: Tensor, augment: torch.Generator | None = None, device: torch.device = CPU
    ) -> Batch:
        """The network's input for these samples on a device, augmented there if a generator is given."""
        x = batch.mapped(lambda t: t[index].to(device), self.split(split).x)
        if augment is not None and self.augment is not None:
            x = self.augment(x, augment)
        x = self.prepare(x)
        return x if self.contexts is None else with_context(x, self.contexts[split][index].to(device))


def with_context(x: Tensor, context: Tensor) -> Tensor:
    """Inputs ``[B, C, ...]`` with one more channel: the number of each sample's context."""
    numbers = context.to(x.dtype).view(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, numbers], 1)


def number(x: Tensor) -> Tensor:
    """The number of each sample's context ``[B]``, from the last channel of ``[B, C + 1, ...]``."""
    return x[:, -1].flatten(1)[:, 0] if x.ndim > 2 else x[:, -1]


class Stream:
    """Endless batches: the epochs of a subset one after another, cut into B samples each.

    Batch i is a function of the seed, the purpose and i alone, so a run goes on where it stopped; a subset
    smaller than the others begins again (the cyclic repetition of Algorithm 2), and every batch has exactly B
    samples.
    """

    def __init__(self, epoch: Callable[[torch.Generator], Tensor], rows: int, *key: Any) -> None:
        self.epoch, self.batch, self.key = epoch, rows, key
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
