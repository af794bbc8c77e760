"""Images as data: decoded, set aside for validation, cropped and mirrored, normalised.

Shape letters: S samples, B batch, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tombola._utils.errors import DataError
from tombola._utils.io import digest
from tombola._utils.rng import generator as random_generator
from tombola.data.dataset import Split
from tombola.data.memmap import fits, mapped
from tombola.lab.experiments.image_files import Listed


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


def set_aside(rest: Listed, count: int, source: object, key: str) -> tuple[Listed, Listed]:
    """Training images without a fixed random ``count`` of them, and those, for validation.

    Raises:
        DataError: there are not more than that.
    """
    if len(rest) <= count:
        raise DataError(f"{source} has {len(rest)} training images; more than {count} are needed")
    order = torch.randperm(len(rest), generator=random_generator(0, key, "validation"))
    return rest.take(order[count:]), rest.take(order[:count])


def decode(size: int, train: Listed, validation: Listed, test: Listed) -> tuple[Split, Split, Split]:
    """The listed images as splits: ``x`` uint8 ``[S, 3, size, size]``, ``y`` int64 ``[S]``, and columns.

    Images that would take too much memory are decoded once, into a mapped file (`tombola.data.memmap`).

    Raises:
        DataError: an image of another size, or what is no image.
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
