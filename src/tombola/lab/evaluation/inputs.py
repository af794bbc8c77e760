"""Files as inputs of tickets: images, sounds, tables, arrays; prepared as the ticket file says.

What is read is an open file, on a disk or in memory, and a name: it says what the file is, also in messages.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, TicketFileError, UsageError, readable, unknown
from tombola.data.images import SUFFIXES, pixels_of, read_picture
from tombola.data.table import TABLES, frame, read_inputs, read_text
from tombola.data.values import FILL, check_batch, check_finite
from tombola.lab import audio
from tombola.tickets.inputs import Inputs, as_taken, known

SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}
ARRAYS = {".npy", ".npz"}
TEXTS = {".txt"}
Form = Mapping[str, Any]  # shape, dtype and range of a tensor, or of the parts of a batch (`probe.described`)


def taken_by(
    file: Path, metadata: Mapping[str, Any], prepared: bool = False, tokenizer: str | None = None
) -> Inputs:
    """What the tickets of a file take.

    Args:
        file: the ticket file.
        metadata: those of the file.
        prepared: inputs will be what the network takes, already prepared.
        tokenizer: where the tokenizer of training lies by now, if it was moved.

    Raises:
        UsageError: the file does not say it, or a function of the user's own prepared the inputs.
    """
    taken = Inputs(as_taken(metadata)) if prepared else known(metadata)
    if taken.kind != "sound" and taken.stored is None:
        raise TicketFileError(
            f"{file} does not say what its inputs look like: save the tickets with tickets.save(FILE, like=x)"
        )
    if not prepared and "data" in metadata and "input" not in metadata:
        raise UsageError(
            f"{file} is of an older version, which did not say how inputs are prepared: pass what "
            "the network takes (--prepared)"
        )
    if tokenizer is not None:
        if taken.text is None:
            raise UsageError(f"{file} is of tickets that take no text: leave --tokenizer out")
        taken = replace(taken, text={**taken.text, "tokenizer": tokenizer})
    if own := taken.own():
        raise UsageError(f"{file}: {own} (--prepared)")
    return taken


def inputs_of(path: Path, taken: Inputs, on_progress: Callable[[str], None] = lambda _: None) -> Batch:
    """The network's inputs in a file, ``[B, ...]``; see `inputs_in`.

    Raises:
        DataError: no such file, or nothing in it that these tickets take.
        TombolaError: a function of the user's own prepared the inputs of training.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    with path.open("rb") as file:
        return inputs_in(str(path), file, taken, on_progress)


def inputs_in(
    name: str,
    file: BinaryIO,
    taken: Inputs,
    on_progress: Callable[[str], None] = lambda _: None,
    most: int | None = None,
) -> Batch:
    """The network's inputs in an open file: one image or sound, or samples as rows or in an array.

    Images are brought to the network's size and channels as in training; ``on_progress`` is told so, in a
    line. Tables are CSV or Parquet: of the columns that the tickets were trained on, or of numbers alone,
    with a header or none. Texts are in the column of training, or the lines of a file (``.txt``). Arrays
    (``.npy``; ``.npz`` of several parts, by their names) hold samples as they were in training.

    Args:
        name: its suffix says what the file is.
        file: open for reading, at its beginning; on a disk or in memory.
        taken: what the tickets take.
        on_progress: is told what was done to an image, and where numbers are of another scale.
        most: pixels of an image, or moments of a sound at 16 kHz, beyond which it is refused; a small file
            may unfold to many. Other files are not bounded by it.

    Raises:
        DataError: nothing in it that these tickets take.
        TombolaError: a function of the user's own prepared the inputs of training.
    """
    suffix, sound = Path(name).suffix.lower(), taken.kind == "sound"
    if suffix not in SUFFIXES | SOUNDS | TABLES | ARRAYS | TEXTS:
        raise DataError(
            f"{name} is none of an image, a sound (WAV, FLAC, OGG, MP3), a table (CSV, Parquet), an array "
            "(.npy, .npz) and lines of text (.txt)"
        )
    if taken.text is not None and suffix in TABLES | TEXTS:
        return taken.prepared(taken.tokens(_texts(name, file, taken.text["column"])))
    if suffix in TEXTS:
        raise DataError(f"{name} is lines of text, which these tickets do not take")
    if sound != (suffix in SOUNDS):
        takes = "sounds" if sound else "images, tables or arrays, not sounds"
        raise DataError(f"{name}: these tickets take {takes}")
    if sound:
        waves = torch.from_numpy(audio.read(name, file=file, most=most))[None]
        return audio.spectrogram(torch.nn.functional.pad(waves, (0, max(0, audio.WINDOW - waves.shape[1]))))
    if taken.stored is None:
        raise DataError(f"{name}: the ticket file does not say which form these inputs have")
    if suffix in TABLES:
        x = _table(name, file, taken)
    elif suffix in ARRAYS:
        x = arrays_as(name, _arrays(name, file), taken.stored)
    else:
        x = _image(name, file, taken.stored, on_progress, most)
    return finished(name, x, taken, on_progress)


def finished(name: str, x: Batch, taken: Inputs, on_progress: Callable[[str], None]) -> Batch:
    """Stored samples as the network takes them; a remark where numbers are of another scale."""
    if "tensor" in taken.stored:
        _remark(name, x, taken.stored, on_progress)
    made = taken.prepared(x)
    check_batch(f"{name}, prepared as in training,", made, taken.features, _counted(made))
    return made


def _remark(name: str, x: Tensor, form: Form, on_progress: Callable[[str], None]) -> None:
    """Say so where numbers are of another scale than in training."""
    least, most = float(x.min()), float(x.max())
    low, high = form["range"] or (least, most)
    if least < low - (high - low) or most > high + (high - low):
        on_progress(
            f"{name}: numbers from {least:g} to {most:g}, in training they were from {low:g} to {high:g}: "
            "is the scale the same?"
        )


def _shape(name: str, form: Form, what: str) -> list[int]:
    """The shape of a sample that is one tensor."""
    if "tensor" not in form:
        raise DataError(
            f"{name} is {what}, but these tickets take several parts: give an .npz of them, by name"
        )
    return list(form["tensor"])


def _image(
    name: str, file: BinaryIO, form: Form, on_progress: Callable[[str], None], most: int | None
) -> Tensor:
    shape = _shape(name, form, "an image")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"{name} is an image, but these tickets take {shape} values: give a CSV of numbers")
    picture = read_picture(name, file, most)
    size, bands, wanted = picture.size, len(picture.getbands()), (shape[2], shape[1])
    if size != wanted or bands != shape[0]:
        on_progress(
            f"{name}: {size[0]}x{size[1]} in {bands} channels was brought to {wanted[0]}x{wanted[1]} in "
            f"{shape[0]}, which these tickets take"
        )
    picture = picture.convert("L" if shape[0] == 1 else "RGB")
    pixels = torch.from_numpy(pixels_of(picture, wanted).copy())[None]
    return pixels if form["dtype"] == "uint8" else pixels.float() / 255


def _table(name: str, file: BinaryIO, taken: Inputs) -> Batch:
    if Path(name).suffix.lower() == ".csv":
        rows = _rows(name, file)
        if taken.features is None or _numeric(rows[0]):
            return _numbers(name, rows, taken.stored)
        file.seek(0)
    table = frame(name, file)
    return columns_as(name, table, list(table.columns) if taken.features is None else taken.features, taken)


def columns_as(name: str, table: Any, features: Any, taken: Inputs) -> Batch:
    """Named columns of a table as stored samples, which have the form that tickets take."""
    try:
        x = read_inputs(table, features)
        check_batch("the table", x, features, _counted(x))
        return _like(x, taken.stored)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _texts(name: str, file: BinaryIO, column: str) -> list[str]:
    """The texts of a table, in a column of this name, or the lines of a file."""
    if Path(name).suffix.lower() in TABLES:
        try:
            return read_text(frame(name, file), column)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    with readable(name, "text"):
        lines = [line for line in file.read().decode("utf-8").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{name} holds no lines of text")
    return lines


def column_of(path: Path, name: str) -> list[str]:
    """A column of a table file, as text."""
    table = frame(path) if path.suffix.lower() in TABLES else {}
    if name not in table:
        raise UsageError(f"{path}: {unknown('column', name, map(str, table))}")
    return [str(value) for value in table[name]]


def _like(x: Batch, form: Form) -> Batch:
    """The same in the shapes and dtypes of a form."""
    if isinstance(x, dict):
        return {name: _like(part, form["dict"][name]) for name, part in x.items()}
    shape, dtype = form["tensor"], getattr(torch, form["dtype"])
    if x[0].numel() != prod(shape):
        raise DataError(f"{x[0].numel()} columns, but {prod(shape)} numbers are needed")
    found = x.reshape(len(x), *shape).to(dtype)
    if not dtype.is_floating_point and not torch.equal(found.double().flatten(), x.double().flatten()):
        raise DataError(f"some numbers are no {form['dtype']}, on which these tickets were trained")
    check_finite("the table", found, _counted(found), remedy=FILL)  # numbers beyond those of this dtype
    return found


def _counted(x: Batch) -> range:
    """The numbers of samples of a file, as answers have them: from 1 on."""
    return range(1, batch.size(x) + 1)


def _numbers(name: str, rows: list[list[str]], form: Form) -> Tensor:
    """Rows of numbers, those of a sample in each, under a header or none."""
    shape = _shape(name, form, "a table")
    if not _numeric(rows[0]):
        rows = rows[1:]  # a header
    if not rows:
        raise DataError(f"{name} holds no rows of numbers")
    for number, row in enumerate(rows, 1):
        if len(row) != prod(shape) or not _numeric(row):
            bad = next(((i, value) for i, value in enumerate(row, 1) if not _numeric([value])), None)
            what = f"{bad[1]!r} in column {bad[0]}, no finite number" if bad else f"{len(row)} values"
            raise DataError(f"{name}, row {number} of numbers, has {what}: {prod(shape)} numbers are needed")
    try:
        return _like(torch.tensor([[float(value) for value in row] for row in rows]), form)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _rows(name: str, file: BinaryIO) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(file.read().decode("utf-8").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is no table that can be read ({error})") from None
    if not rows:
        raise DataError(f"{name} holds no rows of numbers")
    return rows


def _arrays(name: str, file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of a file by name; the only one of an ``.npy`` has none."""
    with readable(name, "array"):
        if Path(name).suffix.lower() == ".npy":  # whatever it holds: an archive may unfold to anything
            return {"": np.lib.format.read_array(file, allow_pickle=False)}
        with np.load(file, allow_pickle=False) as found:
            return dict(found)


def arrays_as(name: str, parts: Mapping[str, np.ndarray], form: Form) -> Batch:
    """Arrays of one sample or several as stored samples, which have the form that tickets take."""
    if "tensor" in form:
        if len(parts) != 1:
            raise DataError(f"{name} holds {len(parts)} arrays: these tickets take one")
        return _array(name, next(iter(parts.values())), form)
    wanted = form.get("dict", {})
    if not wanted or parts.keys() != wanted.keys() or any("tensor" not in part for part in wanted.values()):
        names = ", ".join(wanted) or "parts that have no names, which only Python can give"
        raise DataError(
            f"{name} holds {', '.join(filter(None, parts)) or 'one array'}: these tickets take {names}"
        )
    x = {part: _array(name, values, wanted[part]) for part, values in parts.items()}
    batch.check(x)
    return x


def _array(name: str, values: np.ndarray, form: Form) -> Tensor:
    shape, bytes = list(form["tensor"]), form["dtype"] == "uint8"
    kind = "uint8" if bytes else "numbers" if form["dtype"].startswith("float") else form["dtype"]
    if list(values.shape) == shape:
        values = values[None]
    if list(values.shape[1:]) != shape or values.dtype.kind not in "biuf":
        sizes = ", ".join(map(str, ["B", *shape]))
        raise DataError(f"{name} holds {values.dtype} {list(values.shape)}: {kind} [{sizes}] is needed")
    if bytes != (values.dtype == np.uint8) or (values.dtype.kind == "f" and kind not in ("uint8", "numbers")):
        raise DataError(f"{name} holds {values.dtype}: these tickets were trained on {kind}")
    if not len(values):
        raise DataError(f"{name} holds no samples")
    found = torch.from_numpy(values).to(getattr(torch, form["dtype"]))
    check_finite(name, found, _counted(found), remedy=FILL)
    return found


def _numeric(row: list[str]) -> bool:
    try:
        return all(np.isfinite(float(value)) for value in row)
    except ValueError:
        return False
