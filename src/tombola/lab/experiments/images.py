"""Images as data: listed where they lie, set aside for validation, decoded, cropped, mirrored, normalised.

They lie in Parquet files, in a folder per class, or on a hub. Shape letters: S samples, B batch, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import torch
from PIL import Image
from torch import Tensor

from tombola._utils.errors import DataError, install, unknown
from tombola._utils.io import digest
from tombola._utils.rng import generator as random_generator
from tombola.data.dataset import Data, Split
from tombola.data.images import SUFFIXES, crop_and_flip
from tombola.data.memmap import fits, mapped


@dataclass(frozen=True)
class Listed:
    """Images that are not decoded yet, with labels ``y`` int64 ``[S]`` and further columns ``[S]``."""

    where: str  # for messages
    # an iteration over all images of the source, encoded, or as the hub's library decodes them
    pictures: Callable[[], Iterator[Any]]
    stamp: Callable[[], object]  # what changes when the source does
    index: Tensor  # which images of the source these are, each at most once, int64 ``[S]``
    y: Tensor
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Listed:
        """The samples at these positions."""
        columns = {name: values[index.numpy()] for name, values in self.columns.items()}
        return replace(self, index=self.index[index], y=self.y[index], columns=columns)

    def first(self, count: int) -> Listed:
        """The first so many samples, or all where there are fewer."""
        return self.take(torch.arange(min(count, len(self))))


# A split of a source: its wanted columns, the labels first, its pictures and its stamp (see `Listed`).
_Source = tuple[Mapping[str, Sequence[Any]], Callable[[], Iterator[Any]], Callable[[], object]]


def list_images(
    source: str, names: Sequence[str], label: str, columns: Sequence[str] = ()
) -> tuple[Listed, Listed]:
    """Train and test images of a source, to be decoded by `image_data`.

    Args:
        source: a folder with ``train*.parquet`` and ``test*.parquet`` (the hub's image layout), a
            folder with ``train/CLASS/*.png`` and ``test/CLASS/*.png``, or the name of a data set on
            the Hugging Face hub (needs the extra ``hub``).
        names: the class names, in the order of the labels.
        label: the label column of Parquet files.
        columns: further columns of whole numbers (a domain, a superclass), int64 ``[S]``; folders of
            classes have none.
    """
    folder, wanted = Path(source).expanduser(), (label, *columns)
    if not folder.exists():
        if folder.is_absolute() or source.startswith(".") or source.count("/") != 1:
            raise DataError(
                f"there is no folder {source}: give --data a folder or the name of a hub data set"
            )
        read = partial(_hub, source, wanted=wanted)
    elif list(folder.glob("train*.parquet")):
        read = partial(_parquet, folder, wanted=wanted)
    elif not (folder / "train").is_dir():
        raise DataError(f"{source} has neither train*.parquet nor a folder train/ with one folder per class")
    elif columns:
        raise DataError(f"{source} has a folder per class, but {', '.join(columns)} needs Parquet files")
    else:
        read = partial(_folder, folder, names=names)
    train, test = (_checked(read(split), len(names), source, split) for split in ("train", "test"))
    return train, test


def _checked(found: _Source, classes: int, source: str, split: str) -> Listed:
    given, pictures, stamp = found
    where, columns = f"{source} ({split})", {}
    for i, (name, values) in enumerate(given.items()):
        for row, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int):
                what = name if i else "label"
                raise DataError(f"{where}: the {what} of row {row} is {value!r}, a whole number is needed")
        columns[name] = np.array(values, dtype=np.int64)
    y = torch.tensor(columns.pop(next(iter(columns))))
    if not len(y):
        raise DataError(f"{where} holds no images")
    wrong = y[(y < 0) | (y >= classes)]
    if len(wrong):
        raise DataError(f"{source} holds class {int(wrong[0])}, but there are {classes} names")
    return Listed(where, pictures, stamp, torch.arange(len(y)), y, columns)


def _parquet(folder: Path, split: str, wanted: Sequence[str]) -> _Source:
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise DataError(f"{folder} has no {split}*.parquet")
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    images = {}
    for file in files:
        with _readable(file):
            images[file] = _image_column(file, parquet.read_schema(file).names, wanted)
            table = parquet.read_table(file, columns=list(wanted))
        for name, values in columns.items():
            values += table[name].to_pylist()
    return columns, lambda: _parquet_pictures(images), lambda: _stamp(files)


def _parquet_pictures(images: Mapping[Path, str]) -> Iterator[Any]:
    """The pictures of files, a few in memory at a time."""
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


def _folder(folder: Path, split: str, names: Sequence[str]) -> _Source:
    if not (folder / split).is_dir():
        raise DataError(f"{folder} has no folder {split}/")
    files, labels = list[Path](), list[int]()
    for directory in sorted(path for path in (folder / split).iterdir() if path.is_dir()):
        if directory.name not in names:
            raise DataError(f"{directory}: {unknown('class', directory.name, names)}")
        found = [file for file in sorted(directory.iterdir()) if file.suffix.lower() in SUFFIXES]
        files += found
        labels += [names.index(directory.name)] * len(found)
    return {"label": labels}, lambda: map(_content, files), lambda: _stamp(files)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error})") from None


def _stamp(files: Iterable[Path]) -> object:
    """Files by name, size and time."""
    status = ((file.resolve(), file.stat()) for file in files)
    return [(str(file), found.st_size, found.st_mtime_ns) for file, found in status]


def _hub(name: str, split: str, wanted: Sequence[str]) -> _Source:
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            f"{name} is taken for a hub data set, which needs: {install('hub')} (or give --data a folder)"
        ) from None
    try:
        table = load_dataset(name, split=split)
    except Exception as error:  # the library raises many kinds; each means that there is no data
        raise DataError(
            f"{name} could not be loaded from the hub: give --data FOLDER, where its files lie ({error})"
        ) from None
    image = _image_column(name, table.column_names, wanted)
    rows, pictures = list(table.select_columns(list(wanted))), table.select_columns([image])
    columns = {column: [row[column] for row in rows] for column in wanted}
    return columns, lambda: (row[image] for row in pictures), lambda: (name, split, table._fingerprint)


def set_aside(rest: Listed, count: int, source: object, key: str) -> tuple[Listed, Listed]:
    """Training images without a fixed random ``count`` of them, and those, for validation."""
    if len(rest) <= count:
        raise DataError(f"{source} has {len(rest)} training images; more than {count} are needed")
    order = torch.randperm(len(rest), generator=random_generator(0, key, "validation"))
    return rest.take(order[count:]), rest.take(order[:count])


def image_data(
    size: int, parts: tuple[Listed, Listed, Listed], prepare: Callable[[Tensor], Tensor], augment: bool
) -> Data:
    """Decoded train, validation and test images; ``augment`` crops and mirrors, with an eighth as margin."""
    crop = partial(crop_and_flip, margin=size // 8) if augment else None
    return Data(*decode(size, *parts), prepare=prepare, augment=crop)


def decode(size: int, train: Listed, validation: Listed, test: Listed) -> tuple[Split, Split, Split]:
    """The listed images as splits: ``x`` uint8 ``[S, 3, size, size]``, ``y`` int64 ``[S]``, and columns.

    Images that would take too much memory are decoded once, into a mapped file (`tombola.data.memmap`).
    """
    parts = (train, validation, test)
    held = fits(3 * size * size * sum(map(len, parts)))
    one, two, three = (Split(_decoded(part, size, held), part.y, part.columns) for part in parts)
    return one, two, three


def _decoded(part: Listed, size: int, held: bool) -> Tensor:
    shape = len(part), 3, size, size
    if not held:
        key = ("images", part.stamp(), digest({"index": part.index}))
        return mapped(key, shape, lambda: _pixels(part, size))
    x = torch.empty(shape, dtype=torch.uint8)
    for place, pixels in _pixels(part, size):
        x.numpy()[place] = pixels
    return x


def _pixels(part: Listed, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Images in the order of their source, ``[3, size, size]``, each with its place among the samples."""
    places = torch.full((int(part.index.max()) + 1,), -1).scatter(0, part.index, torch.arange(len(part)))
    left = len(part)
    for number, (place, picture) in enumerate(zip(places.tolist(), part.pictures(), strict=False)):
        if place < 0:
            continue
        left -= 1
        try:
            image = picture if isinstance(picture, Image.Image) else Image.open(io.BytesIO(picture))
            pixels = np.asarray(image.convert("RGB"))
        except Exception as error:  # decoders raise many kinds for a damaged file
            raise DataError(f"{part.where}: row {number} is no image ({error})") from None
        if pixels.shape != (size, size, 3):
            what = f"image {number} is {pixels.shape[:2]}, {size}×{size} is needed"
            raise DataError(f"{part.where}: {what}")
        yield place, pixels.transpose(2, 0, 1)
    if left:
        raise DataError(f"{part.where} lost {left} images while it was read: start again")
