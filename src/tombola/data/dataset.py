"""Data in memory, mapped, or read when asked for: three splits that are three things.

Shape letters: S samples of a split, B batch, K tickets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.device import CPU
from tombola._utils.errors import DataError, UnknownColumn, unknown
from tombola._utils.rng import generator
from tombola.data.form import KEPT, Form, joined
from tombola.data.images import read_folder
from tombola.data.prepare import Normalise, Standardize, same
from tombola.data.splitting import SPLITS, divided
from tombola.data.stored import Collate, Request, Stored
from tombola.data.table import Names, classes, column_names, named, opened, read_table, warn_of_scale
from tombola.data.values import batch_of, check_finite, shape_of, tensor_of

if TYPE_CHECKING:
    from tombola.data.text import Text


@dataclass(frozen=True)
class Split:
    """Inputs ``x [S, ...]``, targets ``y [S, ...]`` and further columns of S values each.

    Inputs are a tensor, or a tuple, dictionary or nest of tensors with a row per sample, with which the
    network is called as ``net(x)``, ``net(*x)`` or ``net(**x)``; or `Stored`, read when it is asked for.
    Arrays and lists become tensors, and float64 becomes torch's default dtype (float32), which is that of
    networks. Integers stay what they are, for embeddings and images: ``prepare`` makes them floats.

    Raises:
        DataError: not numbers, no samples, lengths that differ, NaN or infinite values.
    """

    x: Batch  # or `Stored`
    y: Tensor
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {name: np.asarray(values) for name, values in self.columns.items()}
        if not isinstance(self.x, Stored):
            object.__setattr__(self, "x", batch_of(self.x))
        object.__setattr__(self, "y", tensor_of("y", self.y))
        object.__setattr__(self, "columns", columns)
        held = {} if isinstance(self.x, Stored) else {f"x{p}": t for p, t in batch.tensors(self.x).items()}
        every = {**held, "y": self.y}
        if min(t.ndim for t in every.values()) == 0:
            raise DataError("x or y is a single number: one value per sample is needed")
        if len(self) == 0:
            raise DataError("a split has no samples")
        lengths = {name: len(c) for each in (every, columns) for name, c in each.items()}
        wrong = {name: n for name, n in lengths.items() if n != len(self)}
        if wrong:
            raise DataError(f"x has {len(self)} samples, but {wrong}: one value per sample is needed")
        for name, values in every.items():
            check_finite(name, values)

    def __len__(self) -> int:
        return len(self.x) if isinstance(self.x, Stored) else batch.size(self.x)

    def __repr__(self) -> str:
        columns = f", columns={list(self.columns)}" if self.columns else ""
        return f"Split({len(self)} samples, x={_shape(self.x)}, y={shape_of(self.y)}{columns})"

    def column(self, name: str) -> np.ndarray:
        """A column as an array ``[S]``; ``"y"`` is one of them."""
        name = name if name in self.columns else str(name)
        if name != "y" and name not in self.columns:
            raise UnknownColumn(name, ["y", *self.columns])
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
        x = self.x[index] if isinstance(self.x, Stored) else batch.take(self.x, index)
        return Split(x, self.y[index], columns)

    def read(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """The inputs of batches, as they are stored."""
        if isinstance(self.x, Stored):
            return self.x.batches(requests)
        return (batch.take(self.x, request.numbers) for request in requests)

    def fingerprint(self) -> dict[str, Tensor]:
        """What tells these samples from others: all that is in memory, a few inputs of what is stored."""
        x = self.x.fingerprint() if isinstance(self.x, Stored) else batch.tensors(self.x)
        return {**{f"x{path}": t for path, t in x.items()}, "y": self.y}


def _shape(x: Batch | Stored) -> str:
    return repr(x) if isinstance(x, Stored) else shape_of(x)


class Division(TypedDict, total=False):
    """How samples are divided and prepared: the options that all ways to make `Data` share.

    ``validation`` and ``test`` are shares set aside at random (0.1 and 0.2), by ``seed``. ``split`` is a
    column of ``train``, ``validation`` and ``test``, or the numbers of the samples of each; ``group`` a
    column whose samples of one value stay in one split. ``prepare`` and ``augment``: see `Data`.
    """

    validation: float
    test: float
    seed: int
    split: str | Mapping[str, Any] | None
    group: str | None
    prepare: Callable[[Batch], Batch]
    augment: Callable[[Batch, torch.Generator], Batch] | None


DIVISION: Division = {
    "validation": 0.1,
    "test": 0.2,
    "seed": 0,
    "split": None,
    "group": None,
    "prepare": same,
    "augment": None,
}


@dataclass(frozen=True)
class Data:
    """Train, validation and test samples, and how a batch becomes the network's input.

    Training reads ``train``; thresholds and choices come from ``validation``; ``test`` is read once,
    at the end. ``augment(x, generator)`` sees training batches only, as they are stored;
    ``prepare(x)`` then turns any batch into what the network takes (uint8 to float, say). With
    ``contexts``, the number of the subset of every sample ``[S]`` per split, the network is told it
    (`with_context`). ``class_names`` are those of classes 0, 1, ... in ``y``, ``features`` those of the
    columns that the inputs are, where both came with names; ``text`` says how text became tokens.
    """

    train: Split
    validation: Split
    test: Split
    prepare: Callable[[Batch], Batch] = same
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    contexts: Mapping[str, Tensor] | None = None
    class_names: tuple[str, ...] = ()
    features: Any = None
    text: Text | None = None

    @classmethod
    def of(
        cls, x: Any, y: Any, columns: Mapping[str, Any] | None = None, **division: Unpack[Division]
    ) -> Data:
        """Arrays or tensors, split into train, validation and test (`Division`).

        ``columns`` hold what subsets are made of, a value per sample each. float64 becomes float32 (see
        `Split`); integers that are no token numbers need ``prepare=Tensor.float``.

        >>> data = Data.of(torch.rand(100, 8), torch.arange(100) % 2, validation=0.1, test=0.2)
        >>> len(data.train), len(data.validation), len(data.test)
        (70, 10, 20)
        >>> data
        Data(train=70, validation=10, test=20 samples, x=float32[8], y=int64[])
        """
        if columns is not None and not isinstance(columns, Mapping):
            raise DataError(f'columns are named, {{"camera": values}}: got {type(columns).__name__}')
        return cls._of(Split(x, y, columns or {}), division)

    @classmethod
    def _of(cls, whole: Split, division: Division) -> Data:
        """The samples divided, with what the division leaves open as `Division` says."""
        if strange := [name for name in division if name not in DIVISION]:
            raise DataError(unknown("option", strange[0], DIVISION))
        options: dict[str, Any] = {**DIVISION, **division}
        prepare, augment = options.pop("prepare"), options.pop("augment")
        for name, given in (("prepare", prepare), ("augment", augment or same)):
            if not callable(given):
                raise DataError(f"{name} is a function of a batch: got {type(given).__name__}")
        index = divided(len(whole), whole.columns, **options)
        trn, val, tst = (whole.take(index[name]) for name in SPLITS)
        return cls(trn, val, tst, prepare, augment)

    @classmethod
    def from_table(
        cls,
        table: Any,
        target: Names,
        inputs: Names | Mapping[str, Names] | None = None,
        context: Names = (),
        *,
        standardize: bool = False,
        text: str | None = None,
        tokenizer: Any = None,
        length: int = 128,
        **division: Unpack[Division],
    ) -> Data:
        """Rows of a pandas or Arrow table, of a mapping of arrays, or of a Hugging Face data set.

        Args:
            table: what has named columns, or the path of a CSV or Parquet file (the extra ``lab``).
            target: the column of ``y``, or several of numbers; text becomes classes 0, 1, ... in alphabetical
                order, a pandas categorical in the order of its categories, and stays as a column for names.
            inputs: columns of ``x`` float ``[S, n]``; a mapping gives the network a dictionary of such. By
                default all columns that are nothing else.
            context: columns to make subsets of (`tombola.partition.by_column`).
            standardize: inputs with mean 0 and deviation 1 of the training rows.
            text: a column of text, which is the input as tokens: a dictionary of ``input_ids`` and
                ``attention_mask``, int64 ``[S, L]`` each.
            tokenizer: of `transformers`: its folder, its name, or itself.
            length: tokens of a text at most. All are padded to the longest there is, L.
            division: see `Division`.

        >>> houses = {"rooms": [2, 3, 4, 5] * 5, "price": [1.0, 2.0, 3.0, 4.0] * 5, "city": ["A", "B"] * 10}
        >>> Data.from_table(houses, target="price", context="city").train
        Split(14 samples, x=float32[1], y=float32[], columns=['city'])
        """
        kept, table = dict.fromkeys([*column_names(context), *_named_in(division)]), opened(table)
        if text is not None:
            if inputs is not None or standardize:
                raise DataError("text= is all that the network takes: leave inputs= and standardize= out")
            read = read_table(table, target, None, list(kept), text)
            from tombola.data.text import Text, made

            known, found = Text.of(text, read.x, tokenizer, length)
            data = cls.of(made(found, read.x, known.length), read.y, read.columns, **division)
            return replace(data, class_names=read.class_names, text=known)
        read = read_table(table, target, inputs, list(kept))
        data = cls.of(read.x, read.y, read.columns, **division)
        data = replace(data, class_names=read.class_names, features=read.features)
        if not standardize:
            if "prepare" not in division:
                warn_of_scale(data.train.x, read.features)
            return data
        if not isinstance(data.train.x, Tensor) or "prepare" in division:
            raise DataError("standardize=True is for one tensor of inputs, and takes the place of prepare=")
        return replace(data, prepare=Standardize.of(data.train.x))

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        target: str | int | None = None,
        inputs: Names | None = None,
        context: Names = (),
        *,
        columns: Mapping[str, Any] | None = None,
        collate: Collate | None = None,
        workers: int = 0,
        memory: bool | None = None,
        **division: Unpack[Division],
    ) -> Data:
        """A map-style ``torch.utils.data.Dataset`` or a Hugging Face one, read when batches are needed.

        Targets and columns are read once and kept; inputs are read for every batch, so that random transforms
        are drawn anew, as a function of the order of batches.

        Args:
            dataset: what has ``len(dataset)`` and ``dataset[i]``, a pair ``(x, y)`` or a mapping; or a
                mapping of ``train``, ``test`` (and ``validation``) to such, with transforms of their own.
            target: where the target is in a sample: by default the second of a pair, and ``label``,
                ``labels``, ``target`` or ``y`` of a mapping.
            inputs: the parts of a mapping that the network takes; all others by default.
            context: parts of a mapping to make subsets of.
            columns: further columns to make subsets of, a value per sample.
            collate: from a list of ``dataset[i]`` to a batch of the same form, such as one that pads; by
                default samples of one shape are stacked.
            workers: processes of a ``DataLoader`` that read ahead.
            memory: read all once and keep it, for what does not change; by default for lists and
                ``TensorDataset``.
            division: see `Division`.

        Raises:
            DataError: a sample that cannot be read, or has no target.

        >>> rows = [(torch.rand(3), i % 2) for i in range(20)]
        >>> Data.from_dataset(rows, memory=False)
        Data(train=14, validation=2, test=4 samples, x=stored float32[3], y=int64[])
        """
        whole, given = joined(dataset)
        kept = dict.fromkeys([*named(context), *_named_in(division, columns or ())])
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise DataError(f"workers is a number of processes, 0 or more: got {workers!r}")
        form = Form.of(whole, target, inputs, list(kept), columns or ())
        y, found, class_names = form.facts(whole, workers)
        columns = {**found, **(columns or {})}
        x: Any = Stored(whole, form.collate(collate), workers, torch.arange(len(whole)))
        if memory or (memory is None and isinstance(whole, KEPT)):
            x = x.all()
        if given is not None:
            division = {"split": given, **division}
        return replace(cls._of(Split(x, y, columns), division), class_names=class_names)

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        size: int | None = None,
        levels: Sequence[str] = ("class",),
        target: str = "class",
        *,
        grey: bool = False,
        workers: int = 0,
        memory: bool | None = None,
        skip_broken: bool = False,
        **division: Unpack[Division],
    ) -> Data:
        """Pictures in folders, ``x`` uint8 ``[S, 3, size, size]``; the network gets floats from 0 to 1.

        What is transparent is laid on white. Files that are no pictures are counted in a warning.

        Args:
            folder: where they lie.
            size: pixels of a side: pictures are scaled to cover the square, and cut to it; None where all
                have one size.
            levels: what each level of folders is the name of, as in ``("domain", "class")``. One that is
                called ``split`` holds train, validation (or none) and test; the others are columns.
            target: the level of ``y``, numbered in alphabetical order.
            grey: one channel.
            workers: see `from_dataset`.
            memory: decode all once; by default where a quarter of the free memory holds them.
            skip_broken: leave out pictures that cannot be read, counted in a warning. All are decoded once to
                find them; without it, and where they are not kept in memory, their headers alone are read.
            division: see `Division`.

        Raises:
            DataError: no folder, no pictures, or some that cannot be read: one is named, all are counted.
        """
        levels = named(levels)
        if target not in levels:
            raise DataError(unknown("level", target, levels))
        x, columns = read_folder(folder, levels, size, grey, workers, memory, skip_broken)
        y, class_names = classes(columns[target])
        channels = 1 if grey else 3
        division = {"prepare": Normalise((0.0,) * channels, (1.0,) * channels), **division}
        if "split" in levels:
            division = {"split": "split", **division}
        return replace(cls._of(Split(x, y, columns), division), class_names=class_names)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={len(self.split(name))}" for name in SPLITS)
        return f"Data({counts} samples, x={_shape(self.train.x)}, y={shape_of(self.train.y)})"

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
        seed = 0 if augment is None else augment.initial_seed()
        stored = next(self.split(split).read([Request(index, seed)]))
        return self.prepared(split, index, stored, augment, device)

    def batches(self, split: str, indices: Iterable[Tensor], device: torch.device = CPU) -> Iterator[Batch]:
        """The same for one batch after another, not augmented; what is stored is read ahead."""
        indices = list(indices)
        read = self.split(split).read(Request(index) for index in indices)
        for index, stored in zip(indices, read, strict=True):
            yield self.prepared(split, index, stored, None, device)

    def prepared(
        self, split: str, index: Tensor, stored: Batch, augment: torch.Generator | None, device: torch.device
    ) -> Batch:
        """The network's input from what is stored of these samples."""
        x = batch.mapped(lambda t: t.to(device), stored)
        if augment is not None and self.augment is not None:
            x = self.augment(x, augment)
        x = self.prepare(x)
        return x if self.contexts is None else with_context(x, self.contexts[split][index].to(device))


def _named_in(division: Division, known: Iterable[str] = ()) -> list[str]:
    """The columns that the division goes by, but those that are known."""
    names = (division.get("split"), division.get("group"))
    return [name for name in names if isinstance(name, str) and name not in known]


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
