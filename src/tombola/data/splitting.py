"""Which samples train, choose and test: at random, by a column, by group, or as given.

Shape letters: S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import DataError, UnknownColumn, unknown
from tombola._utils.rng import generator
from tombola.data.table import check_complete

SPLITS = ("train", "validation", "test")
ALSO = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}


def divided(
    S: int,
    columns: Mapping[str, np.ndarray],
    *,
    validation: float,
    test: float,
    seed: int,
    split: str | Mapping[str, Any] | None = None,
    group: str | None = None,
) -> dict[str, Tensor]:
    """The numbers of the samples of each split.

    Args:
        S: samples in all.
        columns: values ``[S]`` by name.
        validation: share that is set aside at random to choose by.
        test: share that is set aside at random to judge by.
        seed: of what is random.
        split: a column that holds ``train``, ``validation`` (or none) and ``test``, or the numbers (or a
            boolean vector) of the samples of each. Validation that is not given is set aside from training.
        group: a column; samples of the same value never come into two splits.

    Raises:
        DataError: a split would be empty, samples would be in two, or groups in two.

    >>> found = divided(10, {"house": np.arange(10) // 2}, validation=0.2, test=0.2, seed=0, group="house")
    >>> [len(index) for index in found.values()]
    [6, 2, 2]
    """
    _check_share("validation", validation)
    _check_share("test", test)
    groups = None if group is None else _column(columns, group)
    if groups is not None:
        check_complete(str(group), groups)
    if split is None:
        parts = _drawn(np.arange(S), groups, (validation, test), seed)
        return dict(zip(SPLITS, parts, strict=True))
    found = _named(columns, split) if isinstance(split, str) else _given(S, split)
    if "validation" not in found:
        rest = found["train"].numpy()
        found["train"], found["validation"] = _drawn(rest, groups, (validation,), seed)
    if groups is not None:
        _apart(found, groups, str(group))
    return {name: found[name] for name in SPLITS}


def _check_share(name: str, share: object) -> None:
    if not isinstance(share, Real) or not 0 <= float(share) < 1:
        raise DataError(f"{name} is a share of the samples, from 0 to 1: got {share!r}")


def _column(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in columns:
        raise UnknownColumn(name, columns)
    return columns[name]


def _drawn(
    numbers: np.ndarray, groups: np.ndarray | None, shares: tuple[float, ...], seed: int
) -> list[Tensor]:
    """The rest, then a part for each share; in order of their groups where there are some."""
    S, g = len(numbers), generator(seed, "split")
    wanted = [round(S * share) for share in shares]
    names = " and ".join(f"{n}={s}" for n, s in zip(("validation", "test"), shares, strict=False))
    if min(wanted) < 1 or sum(wanted) >= S:
        raise DataError(
            f"{S} samples cannot be split into {names}: every split needs at least one sample (thresholds "
            "are chosen on validation), so give shares above 0 that sum to less than 1, or more samples"
        )
    if groups is None:
        order = torch.randperm(S, generator=g)
        *parts, rest = order.split([*wanted, S - sum(wanted)])
    else:
        of_sample = torch.from_numpy(np.unique(groups[numbers], return_inverse=True)[1])
        order = torch.randperm(int(of_sample.max()) + 1, generator=g)
        grown, ends = torch.bincount(of_sample)[order].cumsum(0), [0]
        for count in wanted:  # groups, until there are enough samples
            before = int(grown[ends[-1] - 1]) if ends[-1] else 0
            ends.append(int(torch.searchsorted(grown, before + count)) + 1)
        if ends[-1] >= len(order):
            raise DataError(
                f"{len(order)} groups cannot be split into {names}: each split needs at least one"
            )
        cut = order.tensor_split(ends[1:])
        *parts, rest = (torch.isin(of_sample, each).nonzero()[:, 0] for each in cut)
    held = torch.from_numpy(numbers)
    return [held[rest], *(held[part] for part in parts)]


def _named(columns: Mapping[str, np.ndarray], name: str) -> dict[str, Tensor]:
    values = [str(value) for value in _column(columns, name)]
    held = np.array([ALSO.get(value, value) for value in values])
    strange = sorted(set(held.tolist()) - set(SPLITS))
    if strange:
        raise DataError(f"column {name!r} holds {strange[0]!r}: train, validation and test are known")
    return _whole(
        {n: torch.from_numpy((held == n).nonzero()[0]) for n in SPLITS if n in held}, f"column {name!r}"
    )


def _given(S: int, split: Mapping[str, Any]) -> dict[str, Tensor]:
    if not isinstance(split, Mapping):
        raise DataError(
            "split is the name of a column, or {'train': numbers, 'test': numbers}: got "
            f"{type(split).__name__}"
        )
    found: dict[str, Tensor] = {}
    for name, index in split.items():
        if ALSO.get(name, name) not in SPLITS:
            raise DataError(unknown("split", name, SPLITS))
        if ALSO.get(name, name) in found:
            raise DataError(f"split names {ALSO.get(name, name)} twice")
        numbers = torch.as_tensor(np.asarray(index))
        if numbers.is_floating_point() or numbers.ndim != 1:
            raise DataError(f"split[{name!r}] holds no numbers of samples, nor a boolean of each")
        numbers = numbers.nonzero()[:, 0] if numbers.dtype == torch.bool else numbers.long()
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= S):
            raise DataError(
                f"split[{name!r}] holds numbers from {int(numbers.min())} to {int(numbers.max())}, "
                f"there are {S} samples"
            )
        found[ALSO.get(name, name)] = numbers
    return _whole(found, "split")


def _whole(found: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    for name in ("train", "test"):
        if name not in found or not len(found[name]):
            raise DataError(f"{where} leaves {name} without samples")
    every = torch.cat(list(found.values()))
    if len(every.unique()) < len(every):
        raise DataError(f"{where} has samples in two splits, or twice in one")
    return found


def _apart(found: Mapping[str, Tensor], groups: np.ndarray, name: str) -> None:
    """Raise `DataError` where a group is in two splits."""
    seen: dict[Any, str] = {}
    for split, index in found.items():
        for value in np.unique(groups[index.numpy()]).tolist():
            if seen.setdefault(value, split) != split:
                raise DataError(
                    f"{name} {value!r} is in {seen[value]} and {split}: a group must be in one split"
                )
