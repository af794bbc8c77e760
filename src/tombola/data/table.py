"""Tables as samples: columns of numbers are inputs, one or several are the target, others are kept by name.

Shape letters: S rows, n columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, UnknownColumn, needs, readable, warn

Names = str | Sequence[str]
TABLES = {".csv", ".parquet"}  # files


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


FAR = 10.0  # root mean square of a column beyond which networks hardly learn from it as it is


def warn_of_scale(x: Batch, features: Any) -> None:
    """Say so where a column of inputs has numbers that are far from those of weights.

    >>> warn_of_scale(torch.tensor([[0.5, 1.0], [1.0, 2.0]]), ["age", "sugar"])
    """
    parts = [(x[part], features[part]) for part in features] if isinstance(x, dict) else [(x, features)]
    size_of = {
        name: float(size)
        for part, names in parts
        for name, size in zip(
            named(names), part.double().reshape(len(part), -1).square().mean(0).sqrt(), strict=True
        )
    }
    far = [name for name, size in size_of.items() if size > FAR]
    if far:
        worst, others = max(far, key=size_of.__getitem__), len(far) - 1
        remedy = "scale them before" if isinstance(x, dict) else "standardize=True"
        warn(
            f"column {worst!r} has numbers of about {size_of[worst]:.3g}"
            + (f", and {others} more like it" if others else "")
            + f": networks learn little from such as they are; {remedy}"
        )


@dataclass(frozen=True)
class Read:
    """What a table says: inputs, targets, the columns that are kept; names of inputs and of classes of y."""

    x: Batch
    y: Tensor
    columns: dict[str, np.ndarray]
    features: Any
    class_names: tuple[str, ...] = ()


def opened(table: Any) -> Any:
    """A table, or that in a CSV or Parquet file where it is a path."""
    if not isinstance(table, str | Path):
        return table
    path = Path(table).expanduser()
    if not path.is_file() or path.suffix.lower() not in TABLES:
        what = "is no CSV or Parquet file" if path.exists() else "is not there"
        raise DataError(f"{table} {what}: give such a file, or a table with named columns")
    return frame(path)


def frame(name: Path | str, file: BinaryIO | None = None) -> Any:
    """A CSV or Parquet file as a table of pandas.

    Args:
        name: where it is, or how a ``file`` that is given open is called; its suffix says what it is.
        file: open for reading, if it is on no disk.

    Raises:
        MissingExtra: pandas is not installed.
        DataError: it cannot be read, or has no rows.
    """
    with needs("lab", "reading tables from files"):
        import pandas as pd
    read = pd.read_csv if Path(name).suffix.lower() == ".csv" else pd.read_parquet
    with readable(name, "table"):
        table = read(name if file is None else file)
    if not len(table):
        raise DataError(f"{name} holds no rows")
    return table


def read_table(
    table: Any,
    target: Names,
    inputs: Names | Mapping[str, Names] | None,
    keep: Sequence[str],
    text: str | None = None,
) -> Read:
    """Columns of a pandas or Arrow table, a mapping of arrays, or a Hugging Face data set.

    Args:
        table: what has named columns.
        target: the column of ``y``, or several of numbers. Text is numbered in alphabetical order, a pandas
            categorical in the order of its categories, and kept as a column.
        inputs: columns of ``x`` float ``[S, n]``; a mapping gives the network a dictionary of such. By
            default all columns that are nothing else.
        keep: columns to keep, such as the context of each row.
        text: in place of inputs a column of text, which is then ``x``, a list of strings.
    """
    columns, categories = _columns(table), _categories(table)
    targets, several = column_names(target), not _is_name(target)
    if not targets or not all(isinstance(name, str) for name in targets):
        raise DataError(f"target is the name of a column, or several: got {target!r}")
    other, class_names = {*targets, *keep}, tuple[str, ...]()
    for name in other:
        _known(columns, name)
    kept = {name: columns[name] for name in keep}
    name = targets[0]
    if not several and (name in categories or columns[name].dtype.kind not in "biuf"):
        check_complete(name, columns[name])
        kept[name] = columns[name].astype(str)
        y, class_names = classes(kept[name], categories.get(name))
    else:
        y = torch.stack([_numbers(columns, each, "a target") for each in targets], 1)
        y = y if several else y[:, 0]
    if text is not None:
        check_apart([text], other)
        return Read(_strings(columns, text), y, kept, None, class_names)
    if isinstance(inputs, Mapping):
        features: Any = {str(part): _texts(names) for part, names in inputs.items()}
    else:
        features = [each for each in columns if each not in other] if inputs is None else _texts(inputs)
    check_apart(needed(features), other)
    return Read(read_inputs(columns, features), y, kept, features, class_names)


def read_text(table: Any, column: str) -> list[str]:
    """A column of text; `DataError` where there is none of this name, or where it holds something else.

    >>> read_text({"sentence": ["a", "b"]}, "sentence")
    ['a', 'b']
    """
    return _strings(_columns(table), column)


def _strings(columns: Mapping[str, np.ndarray], name: str) -> list[str]:
    values = _known(columns, name)
    check_complete(name, values)
    found = values.tolist()
    if wrong := [value for value in found if not isinstance(value, str)]:
        raise DataError(f"column {name!r} is to be text, but holds {type(wrong[0]).__name__} ({wrong[0]!r})")
    return found


def read_inputs(table: Any, features: Any) -> Batch:
    """Inputs from the columns of these names: one ``[S]``, several ``[S, n]``, or a dictionary of such.

    >>> read_inputs({"area": [80.0, 95.0], "rooms": [3, 4]}, ["area", "rooms"])
    tensor([[80.,  3.],
            [95.,  4.]])
    """
    columns = _columns(table)
    if isinstance(features, Mapping):
        return {part: _matrix(columns, names) for part, names in features.items()}
    return _matrix(columns, features)


def _columns(table: Any) -> dict[str, np.ndarray]:
    if isinstance(table, Mapping):
        names = list(table)
    elif hasattr(table, "column_names"):  # an Arrow table, or a Hugging Face data set
        names = list(table.column_names)
    elif hasattr(table, "columns") and hasattr(table, "to_numpy"):
        names = list(table.columns)
    else:
        raise DataError(
            f"a table has named columns (pandas, Arrow, a dictionary of arrays): got {type(table).__name__}"
        )
    if twice := [name for name, count in Counter(map(str, names)).items() if count > 1]:
        raise DataError(f"the table has several columns {twice[0]!r}: rename all but one")
    found = {str(name): table_column(table, name) for name in names}
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(
            f"the columns of the table differ in length: {lengths}" if found else "the table is empty"
        )
    return found


def table_column(table: Any, name: Any) -> np.ndarray:
    """A column of what has columns, as an array."""
    column = table[name]
    if hasattr(column, "to_numpy"):
        column = column.to_numpy()
    return np.asarray(column if isinstance(column, np.ndarray | Tensor) else list(column))


def _categories(table: Any) -> dict[str, list[str]]:
    """The categories of the columns that are pandas categoricals, in their order."""
    kinds = {name: getattr(each, "dtype", None) for name, each in getattr(table, "items", dict)()}
    found = {str(name): getattr(kind, "categories", None) for name, kind in kinds.items()}
    return {name: [str(each) for each in known] for name, known in found.items() if known is not None}


def classes(values: np.ndarray, order: Sequence[str] | None = None) -> tuple[Tensor, tuple[str, ...]]:
    """Classes 0, 1, ... of text and their names, in alphabetical order or in a given one.

    >>> classes(np.array(["dog", "cat", "dog"]))
    (tensor([1, 0, 1]), ('cat', 'dog'))
    """
    if order is None:
        names, numbers = np.unique(values, return_inverse=True)
        return torch.from_numpy(numbers), tuple(map(str, names))
    places = {name: i for i, name in enumerate(order)}
    return torch.tensor([places[str(value)] for value in values]), tuple(order)


def _is_name(names: Any) -> bool:
    """Whether it is one name: text, or the whole number that a column without a name has."""
    return isinstance(names, str | int | np.integer) and not isinstance(names, bool)


def column_names(names: Any) -> tuple[str, ...]:
    """One name of a column or several, whole numbers as text."""
    every = (names,) if _is_name(names) else named(names)
    return tuple(str(name) if _is_name(name) else name for name in every)


def _texts(names: Any) -> str | list[str]:
    return str(names) if _is_name(names) else list(column_names(names))


def named(names: Names) -> tuple[str, ...]:
    """One name or several; `DataError` for what is neither."""
    if not isinstance(names, Iterable):
        raise DataError(f"give the name of a column, or several: got {names!r}")
    return (names,) if isinstance(names, str) else tuple(names)


def needed(features: Any) -> list[str]:
    """The columns of one tensor or of a dictionary of parts, each once.

    >>> needed({"a": "rooms", "b": ["rooms", "garden"]}), needed("area")
    (['rooms', 'garden'], ['area'])
    """
    groups = features.values() if isinstance(features, Mapping) else [features]
    return list(dict.fromkeys(name for names in groups for name in named(names)))


def check_apart(inputs: Sequence[str], others: Iterable[object]) -> None:
    """Raise `DataError` where an input is the target or a context as well."""
    if both := [name for name in inputs if name in set(others)]:
        raise DataError(
            f"{both[0]!r} is an input, and the target or a context: the network would be told the answer"
        )


def _known(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in columns:
        raise UnknownColumn(name, columns)
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
