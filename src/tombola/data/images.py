"""Pictures: listed in folders, read as a map-style data set, cropped, mirrored, normalised.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tombola._utils.errors import DataError, needs, readable, warn
from tombola.data.memmap import fits
from tombola.data.stored import Stored
from tombola.data.values import opaque, stacked

DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # modes of Pillow
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # whatever a file is called: others of Pillow start programs


class Pictures:
    """Files as uint8 arrays ``[3, H, W]``, brought to one size.

    Args:
        files: one per sample.
        size: pixels of a side; the picture is scaled to cover the square, and cut to it around its centre.
            None: as it is.
        grey: one channel in place of three.
    """

    def __init__(self, files: Sequence[Path], size: int | None, grey: bool = False) -> None:
        with needs("lab", "pictures as data"):
            import PIL.Image  # noqa: F401
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise DataError(f"size is a number of pixels, from 1 on: got {size!r}")
        self.files, self.size, self.mode = list(files), size, "L" if grey else "RGB"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> np.ndarray:
        size = None if self.size is None else (self.size, self.size)
        return pixels_of(read_picture(self.files[i]).convert(self.mode), size)

    def broken(self, decode: bool = True) -> dict[int, str]:
        """The numbers of those that cannot be read, each with the reason: by decoding all, or by headers."""
        found = {}
        for i, file in enumerate(self.files):
            try:
                with _opened(file) as opened:
                    if decode:
                        opened.load()
            except DataError as error:
                found[i] = str(error)
        return found


@contextmanager
def _opened(name: Path | str, file: BinaryIO | None = None) -> Iterator[Any]:
    from PIL import Image

    with (
        readable(name, "picture"),
        Image.open(name if file is None else file, formats=FORMATS) as opened,
    ):
        if opened.mode in DEEP:
            raise DataError(f"{name} has more than 8 bits a channel: bring it to 8 first")
        yield opened


def read_picture(name: Path | str, file: BinaryIO | None = None, most: int | None = None) -> Any:
    """A picture of Pillow, decoded, upright, on white where it was transparent.

    Args:
        name: where it is, or how a ``file`` that is given open is called.
        file: open for reading, if it is on no disk.
        most: pixels beyond which it is refused, before it is decoded.

    Raises:
        DataError: it cannot be read, is too large, or has more than 8 bits a channel.
    """
    from PIL import ImageOps

    with _opened(name, file) as opened:
        if most is not None and opened.width * opened.height > most:
            raise DataError(f"{name} is {opened.width}x{opened.height}: {most:,} pixels at most, scale it")
        return opaque(ImageOps.exif_transpose(opened))


def pixels_of(picture: Any, size: tuple[int, int] | None) -> np.ndarray:
    """Pixels ``[C, H, W]`` uint8 of a picture, scaled to cover (width, height) and cut to it."""
    from PIL import Image, ImageOps

    if size is not None and picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.BICUBIC)
    return np.array(picture).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)


def read_folder(
    folder: Path | str,
    levels: Sequence[str],
    size: int | None,
    grey: bool,
    workers: int,
    memory: bool | None,
    skip_broken: bool,
) -> tuple[Tensor | Stored, dict[str, np.ndarray]]:
    """The pictures below a folder, in memory or `Stored`, and what folders say of each.

    The arguments are those of `tombola.Data.from_folder`.
    """
    files, columns = list_pictures(folder, levels)
    pictures = Pictures(files, size, grey)
    if skip_broken and (broken := pictures.broken()):
        good = [i for i in range(len(files)) if i not in broken]
        if not good:
            raise DataError(_counted(broken, files))
        warn(f"{_counted(broken, files)}: left out")
        columns = {level: values[good] for level, values in columns.items()}
        pictures = Pictures([files[i] for i in good], size, grey)
    x = Stored(pictures, stacked, workers, torch.arange(len(pictures)))
    try:
        if memory or (memory is None and fits(x.example.numel() * len(x))):
            return x.all(), columns
    except DataError:
        _refuse(pictures.broken(), files)
        raise
    _refuse({} if skip_broken else pictures.broken(decode=False), files)
    return x, columns


def _refuse(broken: dict[int, str], files: Sequence[Path]) -> None:
    if broken:
        raise DataError(f"{_counted(broken, files)}: mend or remove them, or pass skip_broken=True") from None


def _counted(broken: dict[int, str], files: Sequence[Path]) -> str:
    more = f", and {len(broken) - 1} more of {len(files)} cannot be read" if len(broken) > 1 else ""
    return next(iter(broken.values())) + more


def list_pictures(folder: Path | str, levels: Sequence[str]) -> tuple[list[Path], dict[str, np.ndarray]]:
    """The pictures below a folder, in alphabetical order, and what the folders say of each.

    Args:
        folder: where they lie.
        levels: what each level of folders is the name of, such as ``("domain", "class")``.

    Raises:
        DataError: no such folder, or no picture that deep.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {folder}")
    below = sorted(root.glob("/".join("*" for _ in (*levels, "file"))))
    every = [file for file in below if file.is_file() and not file.name.startswith(".")]
    files = [file for file in every if file.suffix.lower() in SUFFIXES]
    others = Counter(
        file.suffix.lower() or "no suffix" for file in every if file.suffix.lower() not in SUFFIXES
    )
    if files and others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
        warn(f"{folder}: {others.total()} files are no pictures that are read, and passed over: {kinds}")
    if not files:
        form = "/".join(level.upper() for level in levels)
        found = next((f for f in sorted(root.rglob("*")) if f.suffix.lower() in SUFFIXES), None)
        there = f"; there is {found.relative_to(root)}" if found else ""
        raise DataError(
            f"{folder} has no pictures as {form}/FILE{there}: say with levels= what its folders mean"
        )
    parts = [file.relative_to(root).parts for file in files]
    return files, {level: np.array([part[i] for part in parts]) for i, level in enumerate(levels)}


@dataclass(frozen=True)
class Normalise:
    """uint8 ``[B, C, H, W]`` to float with mean 0 and deviation 1 per channel, channels last.

    Channels last is what convolutions on a CPU are fastest with; values and shapes are the same.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

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
    padded = pad(x, [margin] * 4)
    top, left = torch.randint(0, 2 * margin + 1, (2, B), generator=generator)
    rows, columns = top[:, None] + torch.arange(H), left[:, None] + torch.arange(W)
    mirrored = torch.rand(B, generator=generator) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    b, c = torch.arange(B)[:, None, None, None], torch.arange(C)[None, :, None, None]
    return padded[b, c, rows[:, None, :, None], columns[:, None, None, :]]
