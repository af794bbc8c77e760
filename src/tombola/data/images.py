"""Pictures: listed in folders, read as a map-style data set, cropped, mirrored, normalised.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from tombola._utils.errors import DataError, needs

DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # modes of Pillow
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


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
        from PIL import Image, ImageOps

        file = self.files[i]
        try:
            with Image.open(file) as opened:
                if opened.mode in DEEP:
                    raise DataError(f"{file} has more than 8 bits a channel: bring it to 8 first")
                picture: Any = ImageOps.exif_transpose(opened).convert(self.mode)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} is no picture that can be read ({error})") from None
        if self.size is not None and picture.size != (self.size, self.size):
            picture = ImageOps.fit(picture, (self.size, self.size), Image.Resampling.BICUBIC)
        return np.array(picture).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)


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
    files = [file for file in below if file.suffix.lower() in SUFFIXES and file.is_file()]
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
