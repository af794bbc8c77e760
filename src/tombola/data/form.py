"""Where inputs, target and contexts are in a sample of a map-style data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, TensorDataset

from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, unknown
from tombola.data.stored import ROWS, Collate, Request, ordered, samples
from tombola.data.table import Names, check_apart, classes, named, table_column
from tombola.data.values import stacked

KEPT = (list, tuple, TensorDataset)  # they are in memory, and do not change
LABELS = ("label", "labels")
TARGETS = (*LABELS, "target", "y")  # the usual names


@dataclass(frozen=True)
class Form:
    """The parts of a sample, a pair or a mapping.

    Attributes:
        target: the name or place of the target.
        inputs: a name, several, or a place; None for all that is nothing else.
        context: the names of what subsets are made of.
        apart: parts that are no inputs unless they are named, such as columns that were given otherwise.
    """

    target: str | int
    inputs: Names | int | None
    context: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        dataset: Any,
        target: str | int | None,
        inputs: Names | None,
        context: Sequence[str],
        apart: Iterable[str] = (),
    ) -> Form:
        """The form of a data set's first sample, where not all is said.

        Raises:
            DataError: what has no samples, or samples whose target is not known.
        """
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"from_dataset needs len(dataset) and dataset[i], which {type(dataset).__name__} lacks: "
                "pass loader.dataset of a DataLoader, list(...) of an iterator"
            )
        if not len(dataset):
            raise DataError("the data set has no samples")
        [one] = samples(dataset, [0])
        if isinstance(one, Mapping):
            target = _target(list(one), target)
            for name in (target, *context, *named(inputs or ())):
                if name not in one:
                    raise DataError(unknown("part of a sample", name, list(one)))
            check_apart(named(inputs or ()), [target, *context])
            return cls(target, inputs, tuple(context), tuple(apart))
        if not isinstance(one, tuple | list) or len(one) != 2 or context or inputs:
            what = f"a {type(one).__name__}" + (f" of {len(one)}" if isinstance(one, tuple | list) else "")
            raise DataError(
                "from_dataset needs dataset[i] to be a pair (x, y), or a mapping for parts to have names: it "
                f"is {what}; wrap it, give columns= for what subsets or splits are made of, or use Data.of"
            )
        places: dict[object, int] = {None: 1, 1: 1, -1: 1, 0: 0, -2: 0}
        if target not in places:
            raise DataError(f"samples are pairs: target is 0 or 1, not {target!r}")
        return cls(places[target], 1 - places[target])

    def collate(self, given: Collate | None) -> Collate:
        """From samples to the network's inputs; a ``given`` function gets whole samples."""
        return partial(_collated, self, given)

    def taken(self, whole: Any) -> Batch:
        """The inputs of a sample, or of a batch of the same form."""
        if isinstance(self.inputs, str | int):
            return whole[self.inputs]
        if not isinstance(whole, Mapping):
            return whole[0]
        also = LABELS if self.target in LABELS else ()  # what collators of transformers rename
        left_out = {self.target, *self.context, *self.apart, *also}
        wanted = [name for name in whole if name not in left_out] if self.inputs is None else self.inputs
        return {name: whole[name] for name in wanted}

    def facts(self, dataset: Any, workers: int) -> tuple[Tensor, dict[str, np.ndarray], tuple[str, ...]]:
        """Targets ``[S, ...]``, columns ``[S]``, names of classes; all is read once, unless it is listed."""
        if isinstance(dataset, ConcatDataset):
            parts = [self._read(part, workers) for part in dataset.datasets]
            read = {name: [value for part in parts for value in part[name]] for name in parts[0]}
        else:
            read = self._read(dataset, workers)
        columns, targets = {str(name): np.asarray(read[name]) for name in self.context}, read[self.target]
        if lacking := [i for i, value in enumerate(targets) if value is None]:
            raise DataError(
                f"sample {lacking[0]} has no target (None), with {len(lacking)} in all: leave them out"
            )
        if isinstance(targets[0], str):
            columns[str(self.target)] = np.asarray(targets)
            y, names = classes(columns[str(self.target)])
            return y, columns, names
        return stacked(targets, "y"), columns, _class_names(dataset, self.target)

    def _read(self, dataset: Any, workers: int) -> dict[Any, list[Any]]:
        wanted = [self.target, *self.context]
        if set(wanted) <= set(listed_columns(dataset)):
            return {name: list(table_column(dataset, str(name))) for name in wanted}
        if wanted == [1] and _listed(dataset):
            return {1: list(dataset.targets)}
        every = (Request(index) for index in torch.arange(len(dataset)).split(ROWS))
        rows = [row for part in ordered(partial(_parts, dataset, wanted), every, workers) for row in part]
        return {name: [row[i] for row in rows] for i, name in enumerate(wanted)}


def _class_names(dataset: Any, target: str | int) -> tuple[str, ...]:
    """The names of the classes that a Hugging Face data set numbers; none where it says nothing."""
    first = dataset.datasets[0] if isinstance(dataset, ConcatDataset) else dataset
    features = getattr(first, "features", None)
    label = features.get(target) if isinstance(features, Mapping) else None
    return tuple(map(str, getattr(label, "names", None) or ()))


def _target(known: Sequence[str], given: str | int | None) -> str | int:
    """The name of the target: the given one, or a usual one."""
    if given is None and (usual := [name for name in TARGETS if name in known]):
        return usual[0]
    if given is None:
        raise DataError(f"samples have {', '.join(known)}: say which is the target, target=NAME")
    return given


def listed_columns(dataset: Any) -> list[str]:
    """The columns that a Hugging Face data set, or an Arrow table, can read alone; none under a transform."""
    names, form = getattr(dataset, "column_names", None), getattr(dataset, "format", None)
    if not isinstance(names, list) or (isinstance(form, dict) and form.get("type") == "custom"):
        return []
    return names


def _collated(form: Form, given: Collate | None, whole: list[Any]) -> Batch:
    if given is None:
        return stacked([form.taken(sample) for sample in whole])
    try:
        return form.taken(given(whole))
    except Exception as error:  # a function of the user's
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"collate fails for {len(whole)} samples ({reason})") from error


def _parts(dataset: Any, wanted: Sequence[Any], request: Request) -> list[tuple[Any, ...]]:
    """The wanted parts of samples."""
    found, numbers = [], request.numbers.tolist()
    for i, sample in zip(numbers, samples(dataset, numbers), strict=True):
        try:
            found.append(tuple(sample[name] for name in wanted))
        except (KeyError, IndexError, TypeError):
            raise DataError(
                f"sample {i} of the data set lacks one of {', '.join(map(str, wanted))}"
            ) from None
    return found


def _listed(dataset: Any) -> bool:
    """Whether the data set lists its targets as samples give them (as those of torchvision do)."""
    targets = getattr(dataset, "targets", None)
    if not isinstance(targets, list | tuple | np.ndarray | Tensor) or np.ndim(targets) != 1:
        return False
    if len(targets) != len(dataset) or getattr(dataset, "target_transform", None):
        return False
    ends = [0, len(dataset) - 1]
    return all(bool(targets[i] == sample[1]) for i, sample in zip(ends, samples(dataset, ends), strict=True))


def joined(dataset: Any) -> tuple[Any, dict[str, range] | None]:
    """One data set, and what samples of it each given split has, where several were given by name."""
    if not isinstance(dataset, Mapping):
        return dataset, None
    if not dataset:
        raise DataError("the mapping holds no data set: name train, test, and validation perhaps")
    ends = np.cumsum([len(part) for part in dataset.values()]).tolist()
    starts = [0, *ends[:-1]]
    spans = {name: range(a, b) for name, a, b in zip(dataset, starts, ends, strict=True)}
    return ConcatDataset(list(dataset.values())), spans
