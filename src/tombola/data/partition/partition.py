"""Partitions: names, and who belongs to each of them in every split, by a rule, by classes or by a column.

Shape letters: S samples of a split, K subsets. Subsets may overlap and differ in size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils import batch, io
from tombola._utils.errors import PartitionError
from tombola._utils.validation import check_name
from tombola.data.dataset import SPLITS, Data, Split
from tombola.data.stored import Stored

Names = Sequence[str] | Mapping[Any, str] | None


@dataclass(frozen=True)
class Partition:
    """K named subsets ``d_1 .. d_K``.

    ``members[split]`` is boolean ``[S, K]``: whether a sample belongs to a subset.

    >>> Partition(("even", "odd"), {"train": torch.tensor([[True, False], [False, True], [True, False]])})
    Partition(K=2; train: even=2, odd=1)

    Raises:
        PartitionError: a subset has no sample in some split (it is named), or names repeat.
    """

    names: tuple[str, ...]
    members: Mapping[str, Tensor]
    made_of: tuple[str, ...] = field(default=(), compare=False, repr=False)  # `marks`; none if made by hand

    def __post_init__(self) -> None:
        if not self.names:
            raise PartitionError("a partition needs at least one subset")
        if not all(isinstance(name, str) for name in self.names):
            raise PartitionError(f"subset names must be strings: got {list(self.names)}")
        object.__setattr__(self, "names", tuple(map(str, self.names)))  # numpy's strings become plain
        for name in self.names:
            check_name(name, "subset", PartitionError)
        if len(set(self.names)) < len(self.names):
            raise PartitionError(f"subset names must be distinct: {', '.join(self.names)}")
        for split, members_SK in self.members.items():
            if members_SK.dtype != torch.bool or members_SK.shape[1:] != (len(self.names),):
                raise PartitionError(
                    f"members[{split!r}] has dtype {members_SK.dtype} and shape "
                    f"{tuple(members_SK.shape)}; torch.bool and (samples, {len(self.names)}) are needed"
                )
            counts = zip(self.names, members_SK.sum(0).tolist(), strict=True)
            empty = [name for name, count in counts if count == 0]
            if empty:
                more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
                raise PartitionError(
                    f"subset {', '.join(map(repr, empty[:5]))}{more} is empty in the {split} split: leave it "
                    "out, merge it with another, or give it samples (if Data.of split at random, larger "
                    "shares or more samples help)"
                )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        splits = [f"{split}: {_counted(self.sizes(split))}" for split in self.members]
        return f"Partition(K={len(self)}; {'; '.join(splits)})"

    def sizes(self, split: str = "train") -> dict[str, int]:
        """Samples of each subset."""
        return dict(zip(self.names, self.members[split].sum(0).tolist(), strict=True))

    def whole(self) -> Partition:
        """One subset ``all`` that holds every sample of every subset."""
        return replace(
            self, names=("all",), members={s: m.any(1, keepdim=True) for s, m in self.members.items()}
        )

    def merged(self, groups: Mapping[str, Sequence[int]]) -> Partition:
        """Unions of subsets, given by their numbers under new names.

        >>> data = Data.of(torch.rand(100, 8), torch.arange(100) % 3)
        >>> by_label(data).merged({"even": [0, 2], "odd": [1]}).sizes("train")
        {'even': 48, 'odd': 22}
        """
        members = {
            split: torch.stack([members_SK[:, list(of)].any(1) for of in groups.values()], 1)
            for split, members_SK in self.members.items()
        }
        return replace(self, names=tuple(groups), members=members)

    def shuffled(self, generator: torch.Generator) -> Partition:
        """The control: training samples keep the sizes of the subsets, but belong at random."""
        train_SK = self.members["train"]
        order = torch.randperm(len(train_SK), generator=generator)
        return replace(self, members={**self.members, "train": train_SK[order]})


def _counted(sizes: Mapping[str, int], most: int = 10) -> str:
    shown = ", ".join(f"{name}={size}" for name, size in list(sizes.items())[:most])
    return shown if len(sizes) <= most else f"{shown} and {len(sizes) - most} more"


def marks(data: Data) -> tuple[str, ...]:
    """Hashes of some inputs and of some targets of all splits; in another order of samples both change."""
    splits = {split: data.split(split) for split in SPLITS}
    stored = {s: split.x.index if isinstance(split.x, Stored) else split.x for s, split in splits.items()}
    x = {f"{s}{path}": t for s, part in stored.items() for path, t in batch.tensors(part).items()}
    found = x, {s: split.y for s, split in splits.items()}
    return tuple(io.digest({name: _some(t) for name, t in each.items()}) if each else "" for each in found)


def _some(values: Tensor) -> Tensor:
    rows = values[:: -(-len(values) // 200)]
    flat = rows.reshape(len(rows), -1)
    return flat[:, :: max(flat.shape[1] // 200, 1)]


def by_rule(data: Data, rule: Callable[[Split], Mapping[str, Tensor]]) -> Partition:
    """Subsets by any rule from a split to named boolean vectors ``[S]``; they may overlap.

    >>> data = Data.of(torch.rand(100, 8), torch.arange(100) % 4)
    >>> rule = lambda split: {"low": split.y < 2, "odd": split.y % 2 == 1}
    >>> by_rule(data, rule).names
    ('low', 'odd')
    """
    found = {split: _ruled(rule, split, data.split(split)) for split in SPLITS}
    names = tuple(found["train"])
    for split, subsets in found.items():
        if tuple(subsets) != names:
            raise PartitionError(f"the rule names {list(subsets)} in {split}, {list(names)} in train")
    return Partition(names, {s: torch.stack(list(m.values()), 1) for s, m in found.items()}, marks(data))


def _ruled(rule: Callable[[Split], Mapping[str, Tensor]], name: str, split: Split) -> dict[str, Tensor]:
    found: object = rule(split)
    if not isinstance(found, Mapping) or not found:
        raise PartitionError(
            f"the rule must return a mapping {{name: booleans}}, not empty: got {type(found).__name__}"
        )
    subsets = {subset: torch.as_tensor(inside) for subset, inside in found.items()}
    for subset, inside in subsets.items():
        if inside.dtype != torch.bool or inside.shape != (len(split),):
            raise PartitionError(
                f"the rule must give one boolean per sample, torch.bool ({len(split)},): subset "
                f"{subset!r} got {inside.dtype} {tuple(inside.shape)} in {name}"
            )
    return subsets


def by_label(data: Data, names: Names = None) -> Partition:
    """One subset per class of ``y``; see `by_column`.

    >>> data = Data.of(torch.rand(100, 8), torch.arange(100) % 2)
    >>> by_label(data, names=["even", "odd"]).names
    ('even', 'odd')
    """
    return by_column(data, "y", names)


def by_column(data: Data, column: str, names: Names = None) -> Partition:
    """One subset per value of a column.

    ``names``: a mapping from value to name (values that it leaves out belong to no subset), or a
    sequence that the integer values of the column point into; without it the values are the names.
    Values of the same name make up one subset.

    Raises:
        PartitionError: a named subset is empty, a value points past the names, or there are more
            values than samples to tell them by.
    """
    values = _values(data, column, names)

    def rule(split: Split) -> dict[str, Tensor]:
        held, found = split.column(column), dict.fromkeys(values.values(), torch.tensor(False))
        for value, name in values.items():
            found[name] = found[name] | torch.from_numpy(np.asarray(held == value))
        return found

    return by_rule(data, rule)


def _values(data: Data, column: str, names: Names) -> dict[Any, str]:
    if isinstance(names, str | Set):
        raise PartitionError(f"names must be a list or {{value: name}}: got {type(names).__name__}")
    held = np.concatenate([data.split(split).column(column) for split in SPLITS])
    if held.dtype.kind == "f" and names is None and (missing := int(np.isnan(held).sum())):
        raise PartitionError(
            f"column {column!r} has no value (NaN) in {missing} samples, of which no subset can be made: "
            "fill them in, or say with names={value: name} which values make subsets"
        )
    try:
        found = np.unique(held)
    except TypeError:
        kinds = ", ".join(sorted({type(value).__name__ for value in held}))
        raise PartitionError(
            f"column {column!r} mixes kinds of values ({kinds}; NaN and None are missing values): make them "
            "one kind, such as strings"
        ) from None
    if names is None:
        smallest = min(SPLITS, key=lambda split: len(data.split(split)))
        if len(found) > len(data.split(smallest)):
            raise PartitionError(
                f"column {column!r} has {len(found)} different values, more than the {smallest} split has "
                f"samples ({len(data.split(smallest))}), and every subset needs one there: name or group "
                "values with names={value: name}, cut ranges with by_rule, or give more samples"
            )
        return {value: str(value) for value in found.tolist()}
    if isinstance(names, Mapping):
        return dict(names)
    if not np.issubdtype(found.dtype, np.integer):
        raise PartitionError(f"column {column!r} is not integer: give names as {{value: name}}")
    if found.min() < 0 or found.max() >= len(names):
        raise PartitionError(
            f"column {column!r} has values from {found.min()} to {found.max()}, but there are "
            f"{len(names)} names"
        )
    return dict(enumerate(names))
