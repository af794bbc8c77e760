"""What a partition is: names, and who belongs to each of them in every split.

Shape letters: S samples of a split, K subsets. Subsets may overlap and differ in size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tombola._utils.errors import PartitionError
from tombola.data.dataset import SPLITS, Data, Split


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

    def __post_init__(self) -> None:
        if not self.names:
            raise PartitionError("a partition needs at least one subset")
        if not all(isinstance(name, str) for name in self.names):
            raise PartitionError(f"subset names must be strings: got {list(self.names)}")
        object.__setattr__(self, "names", tuple(map(str, self.names)))  # numpy's strings become plain
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
        return Partition(("all",), {s: m.any(1, keepdim=True) for s, m in self.members.items()})

    def shuffled(self, generator: torch.Generator) -> Partition:
        """The control: training samples keep the sizes of the subsets, but belong at random."""
        train_SK = self.members["train"]
        order = torch.randperm(len(train_SK), generator=generator)
        return replace(self, members={**self.members, "train": train_SK[order]})


def _counted(sizes: Mapping[str, int], most: int = 10) -> str:
    shown = ", ".join(f"{name}={size}" for name, size in list(sizes.items())[:most])
    return shown if len(sizes) <= most else f"{shown} and {len(sizes) - most} more"


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
    return Partition(names, {s: torch.stack(list(m.values()), 1) for s, m in found.items()})


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
