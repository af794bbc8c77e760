"""Image data sets from where users have them: Parquet files, a folder per class, or a hub's name."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import torch
from PIL import Image
from torch import Tensor

from tombola.data import Split
from tombola.errors import DataError, unknown
from tombola.randomness import generator as random_generator

Row = tuple[Any, Sequence[Any]]  # a picture, and its label and further columns
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


@dataclass(frozen=True)
class Normalise:
    """uint8 ``[B, 3, H, W]`` to float with mean 0 and deviation 1 per channel, channels last.

    Channels last is what convolutions on a CPU are fastest with; values and shapes are the same.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalised float32 of the same shape."""
        scale = torch.tensor(self.std, device=x.device)[:, None, None] * 255
        shift = torch.tensor(self.mean, device=x.device)[:, None, None] * 255
        return ((x.float() - shift) / scale).contiguous(memory_format=torch.channels_last)


def crop_and_flip(x: Tensor, generator: torch.Generator, margin: int = 4) -> Tensor:
    """A random crop from the zero-padded image and a random mirror, drawn for each image.

    >>> crop_and_flip(torch.ones(2, 3, 8, 8, dtype=torch.uint8), torch.Generator()).shape
    torch.Size([2, 3, 8, 8])
    """
    B, C, H, W = x.shape
    padded = torch.nn.functional.pad(x, [margin] * 4)
    top, left = torch.randint(0, 2 * margin + 1, (2, B), generator=generator)
    rows, columns = top[:, None] + torch.arange(H), left[:, None] + torch.arange(W)
    mirrored = torch.rand(B, generator=generator) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    b, c = torch.arange(B)[:, None, None, None], torch.arange(C)[None, :, None, None]
    return padded[b, c, rows[:, None, :, None], columns[:, None, None, :]]


def read_images(
    source: str, names: Sequence[str], label: str, size: int, columns: Sequence[str] = ()
) -> tuple[Split, Split]:
    """Train and test images of a source: ``x`` uint8 ``[S, 3, size, size]``, ``y`` int64 ``[S]``.

    Args:
        source: a folder with ``train*.parquet`` and ``test*.parquet`` (the hub's image layout), a
            folder with ``train/CLASS/*.png`` and ``test/CLASS/*.png``, or the name of a data set on
            the Hugging Face hub (needs the extra ``tombola[hub]``).
        names: the class names, in the order of the labels.
        label: the label column of Parquet files.
        size: the side of an image; others are an error.
        columns: further columns of whole numbers (a domain, a superclass), which become columns of the
            splits, int64 ``[S]``; folders of classes have none.

    Raises:
        DataError: nothing there, an unknown class, another size, a missing column, or a file that is
            no image.
    """
    folder, wanted = Path(source).expanduser(), (label, *columns)
    if not folder.exists():
        if folder.is_absolute() or source.startswith(".") or source.count("/") != 1:
            raise DataError(
                f"there is no folder {source}: give --data a folder or the name of a hub data set"
            )
        rows = {split: _hub_rows(source, split, wanted) for split in ("train", "test")}
    elif list(folder.glob("train*.parquet")):
        rows = {split: _parquet_rows(folder, split, wanted) for split in ("train", "test")}
    elif (folder / "train").is_dir():
        if columns:
            raise DataError(f"{source} has a folder per class, but {', '.join(columns)} needs Parquet files")
        rows = {split: _folder_rows(folder, split, names) for split in ("train", "test")}
    else:
        raise DataError(f"{source} has neither train*.parquet nor a folder train/ with one folder per class")
    train, test = (_stack(rows[split], size, wanted, f"{source} ({split})") for split in ("train", "test"))
    for y in (train.y, test.y):
        wrong = y[(y < 0) | (y >= len(names))]
        if len(wrong):
            raise DataError(f"{source} holds class {int(wrong[0])}, but there are {len(names)} names")
    return train, test


def set_aside(rest: Split, count: int, source: object, key: str) -> tuple[Split, Split]:
    """Training images without a fixed random ``count`` of them, and those, for validation.

    Raises:
        DataError: there are not more than that.
    """
    if len(rest) <= count:
        raise DataError(f"{source} has {len(rest)} training images; more than {count} are needed")
    order = torch.randperm(len(rest), generator=random_generator(0, key, "validation"))
    return rest.take(order[count:]), rest.take(order[:count])


def _stack(rows: Iterable[Row], size: int, wanted: Sequence[str], where: str) -> Split:
    pictures, values = [], []
    for number, (picture, row) in enumerate(rows):
        try:
            image = picture if isinstance(picture, Image.Image) else Image.open(io.BytesIO(picture))
            pixels = np.asarray(image.convert("RGB"))
        except Exception as error:  # decoders raise many kinds for a damaged file
            raise DataError(f"{where}: row {number} is no image ({error})") from None
        if pixels.shape != (size, size, 3):
            raise DataError(f"{where}: image {number} is {pixels.shape[:2]}, {size}×{size} is needed")
        for i, value in enumerate(row):
            if isinstance(value, bool) or not isinstance(value, int):
                what = wanted[i] if i else "label"
                raise DataError(f"{where}: the {what} of row {number} is {value!r}, a whole number is needed")
        pictures.append(pixels)
        values.append(row)
    if not pictures:
        raise DataError(f"{where} holds no images")
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    y, *others = np.array(values, dtype=np.int64).T
    return Split(x, torch.tensor(y), dict(zip(wanted[1:], others, strict=True)))


def _parquet_rows(folder: Path, split: str, wanted: Sequence[str]) -> Iterable[Row]:
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise DataError(f"{folder} has no {split}*.parquet")
    for file in files:
        try:
            table = parquet.read_table(file)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{file} is no Parquet file, or damaged ({reason})") from None
        image = _image_column(file, table.column_names, wanted)
        for picture, *row in zip(*(table[name].to_pylist() for name in (image, *wanted)), strict=True):
            yield picture["bytes"] if isinstance(picture, dict) else picture, row


def _image_column(where: object, columns: Sequence[str], wanted: Sequence[str]) -> str:
    image = next((c for c in ("img", "image") if c in columns), None)
    if image is None or not set(wanted) <= set(columns):
        raise DataError(
            f"{where} needs columns img (or image) and {', '.join(wanted)}; it has {', '.join(columns)}"
        )
    return image


def _folder_rows(folder: Path, split: str, names: Sequence[str]) -> Iterable[Row]:
    if not (folder / split).is_dir():
        raise DataError(f"{folder} has no folder {split}/")
    for directory in sorted((folder / split).iterdir()):
        if not directory.is_dir():
            continue
        if directory.name not in names:
            raise DataError(f"{directory}: {unknown('class', directory.name, names)}")
        for file in sorted(directory.iterdir()):
            if file.suffix.lower() in SUFFIXES:
                yield file.read_bytes(), [names.index(directory.name)]


def _hub_rows(name: str, split: str, wanted: Sequence[str]) -> Iterable[Row]:
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
    for row in table:
        yield row[image], [row[name] for name in wanted]
