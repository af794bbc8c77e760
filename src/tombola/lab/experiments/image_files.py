"""Where images lie: Parquet files, a folder per class, a hub's name. Listed with their labels, not decoded.

Shape letters: S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import torch
from torch import Tensor

from tombola._utils.errors import DataError, unknown

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


@dataclass(frozen=True)
class Listed:
    """Images that are not decoded yet, with labels ``y`` int64 ``[S]`` and further columns ``[S]``.

    Attributes:
        where: for messages.
        pictures: an iteration over all images of the source, encoded, or as the hub's library decodes them.
        stamp: what changes when the source does.
        index: which images of the source these are, each at most once, int64 ``[S]``.
    """

    where: str
    pictures: Callable[[], Iterator[Any]]
    stamp: Callable[[], object]
    index: Tensor
    y: Tensor
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Listed:
        """The samples at these positions."""
        columns = {name: values[index.numpy()] for name, values in self.columns.items()}
        return replace(self, index=self.index[index], y=self.y[index], columns=columns)


@dataclass(frozen=True)
class _Source:
    """A split of a source: the values of its wanted columns row by row, and its pictures (see `Listed`)."""

    rows: Sequence[Sequence[Any]]
    pictures: Callable[[], Iterator[Any]]
    stamp: Callable[[], object]


def list_images(
    source: str, names: Sequence[str], label: str, columns: Sequence[str] = ()
) -> tuple[Listed, Listed]:
    """Train and test images of a source, to be decoded by `tombola.lab.experiments.images.decode`.

    Args:
        source: a folder with ``train*.parquet`` and ``test*.parquet`` (the hub's image layout), a
            folder with ``train/CLASS/*.png`` and ``test/CLASS/*.png``, or the name of a data set on
            the Hugging Face hub (needs the extra ``tombola[hub]``).
        names: the class names, in the order of the labels.
        label: the label column of Parquet files.
        columns: further columns of whole numbers (a domain, a superclass), int64 ``[S]``; folders of
            classes have none.

    Raises:
        DataError: nothing there, an unknown class, a missing column, labels that are no whole numbers.
    """
    folder, wanted = Path(source).expanduser(), (label, *columns)
    if not folder.exists():
        if folder.is_absolute() or source.startswith(".") or source.count("/") != 1:
            raise DataError(
                f"there is no folder {source}: give --data a folder or the name of a hub data set"
            )
        found = [_hub(source, split, wanted) for split in ("train", "test")]
    elif list(folder.glob("train*.parquet")):
        found = [_parquet(folder, split, wanted) for split in ("train", "test")]
    elif (folder / "train").is_dir():
        if columns:
            raise DataError(f"{source} has a folder per class, but {', '.join(columns)} needs Parquet files")
        found = [_folder(folder, split, names) for split in ("train", "test")]
    else:
        raise DataError(f"{source} has neither train*.parquet nor a folder train/ with one folder per class")
    train, test = (
        _checked(each, wanted, len(names), source, split)
        for each, split in zip(found, ("train", "test"), strict=True)
    )
    return train, test


def _checked(found: _Source, wanted: Sequence[str], classes: int, source: str, split: str) -> Listed:
    where = f"{source} ({split})"
    if not found.rows:
        raise DataError(f"{where} holds no images")
    for number, row in enumerate(found.rows):
        for i, value in enumerate(row):
            if isinstance(value, bool) or not isinstance(value, int):
                what = wanted[i] if i else "label"
                raise DataError(f"{where}: the {what} of row {number} is {value!r}, a whole number is needed")
    labels, *others = np.array(found.rows, dtype=np.int64).T
    y = torch.tensor(labels)
    wrong = y[(y < 0) | (y >= classes)]
    if len(wrong):
        raise DataError(f"{source} holds class {int(wrong[0])}, but there are {classes} names")
    columns = dict(zip(wanted[1:], others, strict=True))
    return Listed(where, found.pictures, found.stamp, torch.arange(len(y)), y, columns)


# -- Parquet ----------------------------------------------------------------------------------------------


def _parquet(folder: Path, split: str, wanted: Sequence[str]) -> _Source:
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise DataError(f"{folder} has no {split}*.parquet")
    rows: list[Sequence[Any]] = []
    images = {}
    for file in files:
        with _readable(file):
            images[file] = _image_column(file, parquet.read_schema(file).names, wanted)
            table = parquet.read_table(file, columns=list(wanted))
        rows += zip(*(table[name].to_pylist() for name in wanted), strict=True)
    return _Source(rows, lambda: _parquet_pictures(images), lambda: _stamp(files))


def _parquet_pictures(images: Mapping[Path, str]) -> Iterator[Any]:
    """The pictures of files, a few in memory at a time; the column is given for each file."""
    for file, column in images.items():
        with _readable(file):
            for batch in parquet.ParquetFile(file).iter_batches(256, columns=[column]):
                for picture in batch[column].to_pylist():
                    yield picture["bytes"] if isinstance(picture, dict) else picture


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is no Parquet file, or damaged ({reason})") from None


def _image_column(where: object, columns: Sequence[str], wanted: Sequence[str]) -> str:
    image = next((c for c in ("img", "image") if c in columns), None)
    if image is None or not set(wanted) <= set(columns):
        raise DataError(
            f"{where} needs columns img (or image) and {', '.join(wanted)}; it has {', '.join(columns)}"
        )
    return image


# -- folders of classes -----------------------------------------------------------------------------------


def _folder(folder: Path, split: str, names: Sequence[str]) -> _Source:
    if not (folder / split).is_dir():
        raise DataError(f"{folder} has no folder {split}/")
    files, rows = [], []
    for directory in sorted((folder / split).iterdir()):
        if not directory.is_dir():
            continue
        if directory.name not in names:
            raise DataError(f"{directory}: {unknown('class', directory.name, names)}")
        found = [file for file in sorted(directory.iterdir()) if file.suffix.lower() in SUFFIXES]
        files += found
        rows += [[names.index(directory.name)]] * len(found)
    return _Source(rows, lambda: map(_content, files), lambda: _stamp(files))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error})") from None


def _stamp(files: Iterable[Path]) -> object:
    """Files by name, size and time."""
    status = ((file.resolve(), file.stat()) for file in files)
    return [(str(file), found.st_size, found.st_mtime_ns) for file, found in status]


# -- the hub ----------------------------------------------------------------------------------------------


def _hub(name: str, split: str, wanted: Sequence[str]) -> _Source:
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            f"{name} is taken for a hub data set, which needs: pip install 'tombola[hub]' (or give "
            "--data a folder)"
        ) from None
    try:
        table = load_dataset(name, split=split)
    except Exception as error:  # the library raises many kinds; each means that there is no data
        raise DataError(f"{name} could not be loaded from the hub: {error}") from None
    image = _image_column(name, table.column_names, wanted)
    rows = [[row[column] for column in wanted] for row in table.select_columns(list(wanted))]
    pictures = table.select_columns([image])
    return _Source(rows, lambda: (row[image] for row in pictures), lambda: (name, split, table._fingerprint))
