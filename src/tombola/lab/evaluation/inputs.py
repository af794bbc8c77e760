"""Files as inputs of tickets: images, sounds, tables, arrays; prepared as the ticket file says."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, unknown
from tombola.data.images import SUFFIXES, pixels_of, read_picture
from tombola.data.table import read_inputs, read_text
from tombola.lab import audio
from tombola.lab.audio import read
from tombola.tickets.inputs import Inputs

SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}
TABLES = {".csv", ".parquet"}
ARRAYS = {".npy", ".npz"}
TEXTS = {".txt"}
Form = Mapping[str, Any]  # shape, dtype and range of a tensor, or of the parts of a batch (`probe.described`)


def inputs_of(path: Path, taken: Inputs, on_progress: Callable[[str], None] = lambda _: None) -> Batch:
    """The network's inputs in a file, ``[B, ...]``: one image or sound, or samples as rows or in an array.

    Images are brought to the network's size and channels as in training; ``on_progress`` is told so, in a
    line. Tables are CSV or Parquet: of the columns that the tickets were trained on, or of numbers alone,
    with a header or none. Texts are in the column of training, or the lines of a file (``.txt``). Arrays
    (``.npy``; ``.npz`` of several parts, by their names) hold samples as they were in training.

    Raises:
        DataError: no such file, or nothing in it that these tickets take.
        TombolaError: a function of the user's own prepared the inputs of training.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    suffix, sound = path.suffix.lower(), taken.kind == "sound"
    if suffix not in SUFFIXES | SOUNDS | TABLES | ARRAYS | TEXTS:
        raise DataError(
            f"{path} is none of an image, a sound (WAV, FLAC, OGG, MP3), a table (CSV, Parquet), an array "
            "(.npy, .npz) and lines of text (.txt)"
        )
    if taken.text is not None and suffix in TABLES | TEXTS:
        return taken.prepared(taken.tokens(_texts(path, taken.text["column"])))
    if suffix in TEXTS:
        raise DataError(f"{path} is lines of text, which these tickets do not take")
    if sound != (suffix in SOUNDS):
        takes = "sounds" if sound else "images, tables or arrays, not sounds"
        raise DataError(f"{path}: these tickets take {takes}")
    if sound:
        waves = torch.from_numpy(read(path))[None]
        return audio.spectrogram(torch.nn.functional.pad(waves, (0, max(0, audio.WINDOW - waves.shape[1]))))
    if taken.stored is None:
        raise DataError(f"{path}: the ticket file does not say which form these inputs have")
    if suffix in TABLES:
        x = _table(path, taken)
    else:
        x = _arrays(path, taken.stored) if suffix in ARRAYS else _image(path, taken.stored, on_progress)
    if "tensor" in taken.stored:
        _remark(path, x, taken.stored, on_progress)
    return taken.prepared(x)


def _remark(path: Path, x: Tensor, form: Form, on_progress: Callable[[str], None]) -> None:
    """Say so where numbers are of another scale than in training."""
    least, most = float(x.min()), float(x.max())
    low, high = form["range"] or (least, most)
    if least < low - (high - low) or most > high + (high - low):
        on_progress(
            f"{path}: numbers from {least:g} to {most:g}, in training they were from {low:g} to {high:g}: "
            "is the scale the same?"
        )


def _shape(path: Path, form: Form, what: str) -> list[int]:
    """The shape of a sample that is one tensor."""
    if "tensor" not in form:
        raise DataError(
            f"{path} is {what}, but these tickets take several parts: give an .npz of them, by name"
        )
    return list(form["tensor"])


def _image(path: Path, form: Form, on_progress: Callable[[str], None]) -> Tensor:
    shape = _shape(path, form, "an image")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"{path} is an image, but these tickets take {shape} values: give a CSV of numbers")
    picture = read_picture(path)
    size, bands, wanted = picture.size, len(picture.getbands()), (shape[2], shape[1])
    if size != wanted or bands != shape[0]:
        on_progress(
            f"{path}: {size[0]}x{size[1]} in {bands} channels was brought to {wanted[0]}x{wanted[1]} in "
            f"{shape[0]}, which these tickets take"
        )
    picture = picture.convert("L" if shape[0] == 1 else "RGB")
    pixels = torch.from_numpy(pixels_of(picture, wanted).copy())[None]
    return pixels if form["dtype"] == "uint8" else pixels.float() / 255


def _table(path: Path, taken: Inputs) -> Batch:
    if path.suffix.lower() == ".csv" and (taken.features is None or _numeric(_rows(path)[0])):
        return _numbers(path, taken.stored)
    table = frame(path)
    try:
        x = read_inputs(table, list(table.columns) if taken.features is None else taken.features)
        return _like(x, taken.stored, path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _texts(path: Path, column: str) -> list[str]:
    """The texts of a table, in a column of this name, or the lines of a file."""
    if path.suffix.lower() in TABLES:
        try:
            return read_text(frame(path), column)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    with readable(path, "text"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no lines of text")
    return lines


def frame(path: Path) -> Any:
    """A table (CSV, Parquet) as a pandas one; a `DataError` where there is none."""
    import pandas as pd

    with readable(path, "table"):
        table = pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    if not len(table):
        raise DataError(f"{path} holds no rows")
    return table


def column_of(path: Path, name: str) -> list[str]:
    """A column of a table file, as text."""
    table = frame(path) if path.suffix.lower() in TABLES else {}
    if name not in table:
        raise DataError(f"{path}: {unknown('column', name, map(str, table))}")
    return [str(value) for value in table[name]]


def _like(x: Batch, form: Form, where: object) -> Batch:
    """The same in the shapes and dtypes of a form."""
    if isinstance(x, dict):
        return {name: _like(part, form["dict"][name], where) for name, part in x.items()}
    shape, dtype = form["tensor"], getattr(torch, form["dtype"])
    if x[0].numel() != prod(shape):
        raise DataError(f"{x[0].numel()} columns, but {prod(shape)} numbers are needed")
    found = x.reshape(len(x), *shape).to(dtype)
    if not dtype.is_floating_point and not torch.equal(found.double().flatten(), x.double().flatten()):
        raise DataError(f"some numbers are no {form['dtype']}, on which these tickets were trained")
    return found


def _numbers(path: Path, form: Form) -> Tensor:
    """A CSV of numbers, those of a sample in a row, under a header or none."""
    shape, rows = _shape(path, form, "a table"), _rows(path)
    if not _numeric(rows[0]):
        rows = rows[1:]  # a header
    if not rows:
        raise DataError(f"{path} holds no rows of numbers")
    for number, row in enumerate(rows, 1):
        if len(row) != prod(shape) or not _numeric(row):
            what = f"{len(row)} values" if _numeric(row) else "something that is no finite number"
            raise DataError(f"{path}, row {number} of numbers, has {what}: {prod(shape)} numbers are needed")
    try:
        return _like(torch.tensor([[float(value) for value in row] for row in rows]), form, path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _rows(path: Path) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table that can be read ({error})") from None
    if not rows:
        raise DataError(f"{path} holds no rows of numbers")
    return rows


def _arrays(path: Path, form: Form) -> Batch:
    with readable(path, "array"):
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            held = nullcontext({"": held})
        with held as found:
            parts = dict(found)
    if "tensor" in form:
        if len(parts) != 1:
            raise DataError(f"{path} holds {len(parts)} arrays: these tickets take one")
        return _array(path, next(iter(parts.values())), form)
    known = form.get("dict", {})
    if not known or parts.keys() != known.keys() or any("tensor" not in part for part in known.values()):
        names = ", ".join(known) or "parts that have no names, which only Python can give"
        raise DataError(
            f"{path} holds {', '.join(filter(None, parts)) or 'one array'}: these tickets take {names}"
        )
    x = {name: _array(path, values, known[name]) for name, values in parts.items()}
    batch.check(x)
    return x


def _array(path: Path, values: np.ndarray, form: Form) -> Tensor:
    shape, bytes = list(form["tensor"]), form["dtype"] == "uint8"
    kind = "uint8" if bytes else "numbers" if form["dtype"].startswith("float") else form["dtype"]
    if list(values.shape) == shape:
        values = values[None]
    if list(values.shape[1:]) != shape or values.dtype.kind not in "biuf":
        sizes = ", ".join(map(str, ["B", *shape]))
        raise DataError(f"{path} holds {values.dtype} {list(values.shape)}: {kind} [{sizes}] is needed")
    if bytes != (values.dtype == np.uint8) or (values.dtype.kind == "f" and kind not in ("uint8", "numbers")):
        raise DataError(f"{path} holds {values.dtype}: these tickets were trained on {kind}")
    if not len(values) or not np.isfinite(values).all():
        raise DataError(f"{path} holds {'values that are not finite' if len(values) else 'no samples'}")
    return torch.from_numpy(values).to(getattr(torch, form["dtype"]))


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library says of a file becomes a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of whichever library reads it
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} is no {kind} that can be read ({reason})") from None


def _numeric(row: list[str]) -> bool:
    try:
        return all(np.isfinite(float(value)) for value in row)
    except ValueError:
        return False
