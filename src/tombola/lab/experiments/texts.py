"""Texts in Parquet files, as hubs lay them out: ``train*.parquet`` and ``test*.parquet`` in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tombola._utils.errors import DataError, needs


def columns_of(folder: Path, split: str, names: Sequence[str]) -> list[list[Any]]:
    """Columns of all files of a split, one after another.

    Raises:
        DataError: no such file, or a column that is not there.
    """
    with needs("lab", "reading Parquet files"):
        import pyarrow.parquet as parquet
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise DataError(f"{folder} has no {split}*.parquet")
    table = parquet.read_table(files)
    if missing := [name for name in names if name not in table.column_names]:
        raise DataError(f"{folder}: {split} has no column {missing[0]}, only {', '.join(table.column_names)}")
    return [table[name].to_pylist() for name in names]
