"""Corruptions of images as environments: a camera askew, out of focus, in the dark (noise), in the fog.

Severities run from 1 to 5, as in Hendrycks and Dietterich (arXiv 1903.12261), whose kinds these are;
the strengths are ours. A corruption takes images ``[B, C, H, W]``, uint8 or float with values from 0 to
1, and a generator, and gives new images of the same shape and dtype.

Shape letters: S samples of a split, B batch, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, UsageError, unknown
from tombola._utils.rng import generator as random_generator
from tombola.data.dataset import SPLITS, Data, Split

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]

SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 1000  # images in float at a time; another number would draw other random numbers


def _on_images(change: Corruption) -> Corruption:
    """A corruption of any images from one of float32 from 0 to 1: checks before, the old dtype after."""

    @wraps(change)
    def corruption(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        check_images(x)
        check_severity(severity)
        if x.dtype != torch.uint8:
            return change(x.float(), severity, generator).clamp(0, 1).to(x.dtype)
        return (change(x.float() / 255, severity, generator) * 255).round().clamp(0, 255).to(torch.uint8)

    return corruption


@_on_images
def clean(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """The images as they are."""
    return x


@_on_images
def rotation(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Turned about the centre, always the same way: by 15 degrees times severity, give or take 10.

    What lies outside the image is mirrored.

    >>> rotation(torch.zeros(2, 3, 8, 8), 3, torch.Generator()).shape
    torch.Size([2, 3, 8, 8])
    """
    jitter_B = 20 * torch.rand(len(x), generator=generator) - 10
    angle_B = (15 * severity + jitter_B) * math.pi / 180
    cos_B, sin_B, zero_B = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
    aspect = x.shape[2] / x.shape[3]  # the grid runs from -1 to 1 along both sides
    rows = [cos_B, -sin_B * aspect, zero_B, sin_B / aspect, cos_B, zero_B]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


@_on_images
def blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Gaussian blur; its deviation is 0.3 pixels times severity, more for sides over 32.

    >>> dot = torch.zeros(1, 1, 15, 15)
    >>> dot[0, 0, 7, 7] = 1
    >>> spread = blur(dot, 5, torch.Generator())
    >>> bool(spread[0, 0, 7, 7] < 0.1), round(float(spread.sum()), 2)
    (True, 1.0)
    """
    sigma = 0.3 * severity * max(1, min(x.shape[2:]) / 32)
    reach = min(math.ceil(3 * sigma), min(x.shape[2:]) - 1)  # mirroring needs a pixel more than it adds
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    B, C, H, W = x.shape
    padded = F.pad(x, [reach] * 4, mode="reflect").view(B * C, 1, H + 2 * reach, W + 2 * reach)
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3)).view(B, C, H, W)


@_on_images
def noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise of every value by itself; its deviation is 0.06 of the range times severity.

    >>> grey = torch.full((1, 1, 32, 32), 0.5)
    >>> round(float(noise(grey, 2, torch.Generator().manual_seed(0)).std()), 2)
    0.12
    """
    return x + 0.06 * severity * torch.randn(x.shape, generator=generator)


@_on_images
def fog(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Smooth light patches that take contrast away: ``(1 - a) x + a f``, with ``a`` 0.15 times severity.

    ``f`` lies between 0.6 and 1, drawn on a grid of 4×4 and interpolated.

    >>> foggy = fog(torch.zeros(1, 3, 16, 16), 4, torch.Generator())
    >>> bool(foggy.min() >= 0.6 * 0.6 - 1e-6), bool(foggy.max() <= 0.6 + 1e-6)
    (True, True)
    """
    coarse = 0.6 + 0.4 * torch.rand(len(x), 1, 4, 4, generator=generator)
    patches = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
    return torch.lerp(x, patches.expand_as(x), 0.15 * severity)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {"clean": clean, "rotation": rotation, "blur": blur, "noise": noise, "fog": fog}
)
ENVIRONMENTS = ("clean", "rotation", "blur", "noise")


def environments(
    data: Data,
    names: Sequence[str] | Mapping[str, Corruption] = ENVIRONMENTS,
    *,
    seed: int = 0,
    severity: int = 3,
) -> Data:
    """Lay one environment over every image, and name it in the column ``environment``.

    In every split the environments are equally frequent, up to one sample, and so they are within each
    class where ``y`` is one integer per sample. Which environment a sample is in, and what it looks like
    there, depends on the seed, the split and the data alone. ``prepare`` and ``augment`` stay.

    Args:
        data: images ``[S, C, H, W]``, uint8 or float with values from 0 to 1, not yet normalised.
        names: of `CORRUPTIONS`, or a mapping from names to corruptions of your own.
        seed: of all that is drawn.
        severity: 1 (weak) to 5.

    Raises:
        UsageError: an unknown name, none or one twice, or another severity.
        DataError: x holds no such images, or there is a column ``environment`` already.

    >>> from tombola import partition
    >>> data = environments(Data.of(torch.rand(100, 1, 8, 8), torch.arange(100) % 2))
    >>> partition.by_column(data, "environment").names
    ('blur', 'clean', 'noise', 'rotation')
    """
    chosen = _chosen(names)
    check_severity(severity)
    if any("environment" in data.split(name).columns for name in SPLITS):
        raise DataError("the data have a column 'environment' already: lay environments over them once")
    train, validation, test = (
        _laid(data.split(name), chosen, severity, (seed, "environments", name)) for name in SPLITS
    )
    return replace(data, train=train, validation=validation, test=test)


def _chosen(names: Sequence[str] | Mapping[str, Corruption]) -> dict[str, Corruption]:
    if isinstance(names, Mapping):
        chosen = dict(names)
    else:
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            if name not in CORRUPTIONS:
                raise UsageError(unknown("environment", name, CORRUPTIONS))
        if len(set(names)) < len(names):
            raise UsageError(f"each environment is needed once: got {', '.join(names)}")
        chosen = {name: CORRUPTIONS[name] for name in names}
    if not chosen:
        raise UsageError(f"at least one environment is needed; there are {', '.join(CORRUPTIONS)}")
    return chosen


def _laid(split: Split, chosen: Mapping[str, Corruption], severity: int, key: tuple) -> Split:
    check_images(split.x)
    order = torch.randperm(len(split), generator=random_generator(*key))
    if split.y.ndim == 1 and not split.y.is_floating_point():
        order = order[split.y[order].argsort(stable=True)]  # class by class, so that each is balanced
    number = torch.empty_like(order)
    number[order] = torch.arange(len(split)) % len(chosen)
    x = torch.empty_like(split.x)
    for k, (name, corruption) in enumerate(chosen.items()):
        for i, index in enumerate((number == k).nonzero()[:, 0].split(CHUNK)):
            part = split.x[index]
            found = corruption(part, severity, random_generator(*key, name, i))
            if found.shape != part.shape or found.dtype != part.dtype:
                raise DataError(
                    f"environment {name!r} made {found.dtype} {tuple(found.shape)} of {part.dtype} "
                    f"{tuple(part.shape)}: a corruption keeps shape and dtype"
                )
            x[index] = found
    columns = {**split.columns, "environment": np.array(list(chosen))[number.numpy()]}
    return Split(x, split.y, columns)


def check_images(x: Batch) -> None:
    """Raise `DataError` unless x is ``[B, C, H, W]``, uint8 or float with values from 0 to 1."""
    if not isinstance(x, Tensor):
        raise DataError(f"x is {type(x).__name__}, and corruptions are of images in memory: memory=True")
    if x.ndim != 4:
        raise DataError(f"x has shape {tuple(x.shape)}: images [samples, channels, height, width] are needed")
    if x.shape[1] not in (1, 3):
        raise DataError(f"x has {x.shape[1]} channels (shape {tuple(x.shape)}): images have 1 or 3, at dim 1")
    if min(x.shape[2:]) < 2:
        raise DataError(f"x has images of {x.shape[2]}×{x.shape[3]}: at least 2×2 is needed")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise DataError(f"x is {x.dtype}: corruptions need images as uint8, or as float from 0 to 1")
    if x.is_floating_point() and len(x):
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise DataError(
                f"x has values from {low:.3g} to {high:.3g}: corrupt images before they are normalised, "
                "as uint8 or as float from 0 to 1 (Data.prepare can normalise afterwards)"
            )


def check_severity(severity: int) -> None:
    """Raise `UsageError` unless the severity is 1 to 5."""
    if severity not in SEVERITIES or isinstance(severity, bool):
        raise UsageError(f"severity is a whole number from 1 (weak) to 5: got {severity!r}")
