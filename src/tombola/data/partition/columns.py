"""Subsets by the values of a column: one ticket per class, scene, domain, tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import PartitionError
from tombola.data.dataset import SPLITS, Data, Split
from tombola.data.partition.partition import Partition, by_rule

Names = Sequence[str] | Mapping[Any, str] | None


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
