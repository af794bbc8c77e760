"""Tables as samples: columns of numbers are inputs, one or several are the target, others are kept by name.

Shape letters: S rows, n columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, unknown

Names = str | Sequence[str]


@dataclass(frozen=True)
class Standardize:
    """Columns ``[B, n]`` with mean 0 and deviation 1 of the training rows.

    >>> Standardize((1.0, 2.0), (1.0, 4.0))(torch.tensor([[2.0, 2.0]]))
    tensor([[1., 0.]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Standardised values of the same shape."""
        return (x - x.new_tensor(self.mean)) / x.new_tensor(self.std)

    @classmethod
    def of(cls, x: Tensor) -> Standardize:
        """That of these rows; a column that never changes is only moved."""
        std = x.double().std(0, correction=0)
        return cls(tuple(x.double().mean(0).tolist()), tuple(torch.where(std > 0, std, 1).tolist()))


@dataclass(frozen=True)
class Read:
    """What a table says: inputs, targets and the columns that are kept."""

    x: Batch
    y: Tensor
    columns: dict[str, np.ndarray]


def read_table(
    table: Any, target: Names, inputs: Names | Mapping[str, Names] | None, keep: Sequence[str]
) -> Read:
    """Columns of a pandas or Arrow table, a mapping of arrays, or a Hugging Face data set.

    Args:
        table: what has named columns.
        target: the column of ``y``, or several of numbers. Text is numbered in alphabetical order, and
            kept as a column.
        inputs: columns of ``x`` float ``[S, n]``; a mapping gives the network a dictionary of such. By
            default all columns that are nothing else.
        keep: columns to keep, such as the context of each row.
    """
    columns = _columns(table)
    if not named(target) or not all(isinstance(name, str) for name in named(target)):
        raise DataError(f"target is the name of a column, or several: got {target!r}")
    targets = named(target)
    other = {*targets, *keep}
    for name in other:
        _known(columns, name)
    kept = {name: columns[name] for name in keep}
    if isinstance(target, str) and columns[target].dtype.kind not in "biuf":
        check_complete(target, columns[target])
        kept[target] = columns[target].astype(str)
        y = numbered(kept[target])
    else:
        y = torch.stack([_numbers(columns, name, "a target") for name in targets], 1)
        y = y[:, 0] if isinstance(target, str) else y
    for names in inputs.values() if isinstance(inputs, Mapping) else [inputs or ()]:
        check_apart(named(names), other)
    if inputs is None:
        inputs = [name for name in columns if name not in other]
    if isinstance(inputs, Mapping):
        return Read({name: _matrix(columns, names) for name, names in inputs.items()}, y, kept)
    return Read(_matrix(columns, inputs), y, kept)


def _columns(table: Any) -> dict[str, np.ndarray]:
    if isinstance(table, Mapping):
        found = {str(name): np.asarray(values) for name, values in table.items()}
    elif hasattr(table, "column_names"):  # an Arrow table, or a Hugging Face data set
        found = {name: table_column(table, name) for name in table.column_names}
    elif hasattr(table, "columns") and hasattr(table, "to_numpy"):
        found = {str(name): table[name].to_numpy() for name in table.columns}
    else:
        raise DataError(
            f"a table has named columns (pandas, Arrow, a dictionary of arrays): got {type(table).__name__}"
        )
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(
            f"the columns of the table differ in length: {lengths}" if found else "the table is empty"
        )
    return found


def table_column(table: Any, name: str) -> np.ndarray:
    """A column of an Arrow table or a Hugging Face data set."""
    column = table[name]
    return np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else list(column))


def numbered(values: np.ndarray) -> Tensor:
    """Classes 0, 1, ... of text, in alphabetical order.

    >>> numbered(np.array(["dog", "cat", "dog"]))
    tensor([1, 0, 1])
    """
    return torch.from_numpy(np.unique(values, return_inverse=True)[1])


def named(names: Names) -> tuple[str, ...]:
    """One name or several; `DataError` for what is neither."""
    if not isinstance(names, Iterable):
        raise DataError(f"give the name of a column, or several: got {names!r}")
    return (names,) if isinstance(names, str) else tuple(names)


def check_apart(inputs: Sequence[str], others: Iterable[object]) -> None:
    """Raise `DataError` where an input is the target or a context as well."""
    if both := [name for name in inputs if name in set(others)]:
        raise DataError(
            f"{both[0]!r} is an input, and the target or a context: the network would be told the answer"
        )


def _known(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in columns:
        raise DataError(unknown("column", name, list(columns)))
    return columns[name]


def check_complete(name: str, values: np.ndarray) -> None:
    """Raise `DataError` where a column has None, NaN or what else differs from itself."""
    if values.dtype.kind in "fiub":
        lacking = int(np.isnan(values).sum())
    else:
        lacking = sum(_missing(value) for value in values.tolist())
    if lacking:
        raise DataError(f"column {name!r} has {lacking} missing values: fill them, or leave out those rows")


def _missing(value: object) -> bool:
    """NaN, of whatever type, differs from itself."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA
        return True


def _numbers(columns: Mapping[str, np.ndarray], name: str, purpose: str) -> Tensor:
    values = _known(columns, name)
    check_complete(name, values)
    if values.dtype == object and not any(isinstance(value, str) for value in values):
        with suppress(TypeError, ValueError):  # decimals, or whole numbers of a database
            values = values.astype(np.float64)
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"column {name!r} holds {type(values[0]).__name__}, and {purpose} needs numbers: encode it "
            "(pandas.get_dummies), name the inputs without it, or keep it as context="
        )
    values = np.ascontiguousarray(values)
    found = torch.as_tensor(values.astype(values.dtype.newbyteorder("=")))
    return found.to(torch.get_default_dtype()) if found.dtype == torch.float64 else found


def _float(columns: Mapping[str, np.ndarray], name: str) -> Tensor:
    """A column as floats that still tell its values apart."""
    found = _numbers(columns, name, "an input").to(torch.get_default_dtype())
    before, after = (len(np.unique(values)) for values in (columns[name], found.numpy()))
    if after < 0.9 * before:
        raise DataError(
            f"column {name!r} has {before} values, of which {found.dtype} tells {after} "
            "apart: subtract its mean first"
        )
    return found


def _matrix(columns: Mapping[str, np.ndarray], names: Names) -> Tensor:
    """One column as it is, several as float ``[S, n]``."""
    if isinstance(names, str):
        return _numbers(columns, names, "an input")
    if not names:
        raise DataError("the table has no column that is left as an input: name them with inputs=[...]")
    return torch.stack([_float(columns, name) for name in names], 1)
