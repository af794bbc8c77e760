"""Files as inputs of tickets: images, sounds, tables; and what a ticket file says of its inputs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tombola._utils.errors import DataError
from tombola.data.dataset import Data, same
from tombola.data.images import SUFFIXES, Normalise
from tombola.lab import audio
from tombola.lab.audio import read
from tombola.objectives import Objective

SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}


def described(data: Data, objective: Objective) -> dict[str, Any] | None:
    """What the network takes, as facts of a ticket file; None where facts cannot say what ``prepare`` does.

    >>> from tombola.objectives import OneVsRest
    >>> described(Data.of((torch.arange(160.0) % 2).view(20, 8), torch.arange(20) % 2), OneVsRest())
    {'kind': 'values', 'shape': [8], 'bytes': False, 'range': [0.0, 1.0], 'mean': None, 'std': None}
    """
    if objective.sound:
        return {"kind": "sound"}
    x, prepare = data.test.x, data.prepare
    if not isinstance(x, Tensor) or (not isinstance(prepare, Normalise) and prepare is not same):
        return None
    normal = [list(prepare.mean), list(prepare.std)] if isinstance(prepare, Normalise) else [None, None]
    return {
        "kind": "values",
        "shape": list(x.shape[1:]),
        "bytes": x.dtype == torch.uint8,
        "range": [float(data.train.x.min()), float(data.train.x.max())],
        "mean": normal[0],
        "std": normal[1],
    }


def inputs_of(
    path: Path, metadata: Mapping[str, Any], on_progress: Callable[[str], None] = lambda _: None
) -> Tensor:
    """The network's inputs in a file, ``[B, ...]``: one image or sound, or samples as rows or in an array.

    Images are brought to the network's size and channels; ``on_progress`` is told so, in a line. Tables are
    CSV of numbers, a header or none. Arrays (``.npy``) hold one sample or several, as they were in training.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    suffix, sound = path.suffix.lower(), metadata["kind"] == "sound"
    if suffix not in SUFFIXES | SOUNDS | {".csv", ".npy"}:
        raise DataError(
            f"{path} is none of an image, a sound (WAV, FLAC, OGG, MP3), a table (CSV) and an array (.npy)"
        )
    if sound != (suffix in SOUNDS):
        takes = "sounds" if sound else "images, tables or arrays, not sounds"
        raise DataError(f"{path}: these tickets take {takes}")
    if sound:
        waves = torch.from_numpy(read(path))[None]
        return audio.spectrogram(torch.nn.functional.pad(waves, (0, max(0, audio.WINDOW - waves.shape[1]))))
    if suffix == ".csv":
        x = _table(path, metadata["shape"])
    else:
        x = _array(path, metadata) if suffix == ".npy" else _image(path, metadata, on_progress)
    least, most = float(x.min()), float(x.max())
    low, high = metadata.get("range") or (least, most)
    if least < low - (high - low) or most > high + (high - low):
        on_progress(
            f"{path}: numbers from {least:g} to {most:g}, in training they were from {low:g} to {high:g}: "
            "is the scale the same?"
        )
    if metadata["mean"] is None:
        return x
    return Normalise(tuple(metadata["mean"]), tuple(metadata["std"]))(x)


def _image(path: Path, metadata: Mapping[str, Any], on_progress: Callable[[str], None]) -> Tensor:
    shape = metadata["shape"]
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"{path} is an image, but these tickets take {shape} values: give a CSV of numbers")
    try:
        with Image.open(path) as opened:
            size, bands = opened.size, len(opened.getbands())
            picture = opened.convert("L" if shape[0] == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is no image that can be read ({error})") from None
    wanted = (shape[2], shape[1])
    if size != wanted or bands != shape[0]:
        on_progress(
            f"{path}: {size[0]}x{size[1]} in {bands} channels was brought to {wanted[0]}x{wanted[1]} in "
            f"{shape[0]}, which these tickets take"
        )
    if picture.size != wanted:
        picture = picture.resize(wanted, Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).reshape(shape[1], shape[2], -1).permute(2, 0, 1)[None]
    return pixels if metadata["bytes"] else pixels.float() / 255


def _table(path: Path, shape: list[int]) -> Tensor:
    try:
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table that can be read ({error})") from None
    if rows and not _numeric(rows[0]):
        rows = rows[1:]  # a header
    if not rows:
        raise DataError(f"{path} holds no rows of numbers")
    for number, row in enumerate(rows, 1):
        if len(row) != prod(shape) or not _numeric(row):
            what = f"{len(row)} values" if _numeric(row) else "something that is no finite number"
            raise DataError(f"{path}, row {number} of numbers, has {what}: {prod(shape)} numbers are needed")
    return torch.tensor([[float(value) for value in row] for row in rows]).reshape(len(rows), *shape)


def _array(path: Path, metadata: Mapping[str, Any]) -> Tensor:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is no array that can be read ({error})") from None
    shape, kind = list(metadata["shape"]), "uint8" if metadata["bytes"] else "numbers"
    if list(values.shape) == shape:
        values = values[None]
    if list(values.shape[1:]) != shape or values.dtype.kind not in "biuf":
        sizes = ", ".join(map(str, shape))
        raise DataError(f"{path} holds {values.dtype} {list(values.shape)}: {kind} [B, {sizes}] is needed")
    if metadata["bytes"] != (values.dtype == np.uint8):
        raise DataError(f"{path} holds {values.dtype}: these tickets were trained on {kind}")
    if not len(values) or not np.isfinite(values).all():
        raise DataError(f"{path} holds {'values that are not finite' if len(values) else 'no samples'}")
    return torch.from_numpy(values) if metadata["bytes"] else torch.from_numpy(values).float()


def _numeric(row: list[str]) -> bool:
    try:
        return all(np.isfinite(float(value)) for value in row)
    except ValueError:
        return False
