"""Photographs with label maps, as pixels: coordinates, colours, and the few solid regions of a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # its parts are imported when first used
import torch
from numpy.typing import NDArray
from PIL import Image

from tombola._utils.errors import DataError, UsageError
from tombola.data.dataset import Data, Split
from tombola.data.images import SUFFIXES

SIDE = 128  # pixels on the longer side
LEAST_SHARE = 0.02  # of the picture: smaller regions go to their neighbours
LEAST_PIECE = 8  # pixels: smaller pieces of a region that lie apart are strays
CLUSTERS = 6  # regions of a photograph without labels
# Class numbers that mean "no class", by the name of the numbering; "" where none is named.
IGNORED = {
    "ade150": frozenset({0}),
    "cocostuff182": frozenset({255}),
    "camvid12": frozenset({11}),
    "": frozenset({255}),
}
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Labelled:
    """A photograph ``[H, W, 3]`` and its label map ``[H, W]``, with the names of the labels."""

    name: str
    photograph: Bytes
    labels: Ints
    names: Mapping[int, str]
    ignored: frozenset[int]


def load(source: str | None, augment: bool, side: int = SIDE) -> dict[str, Data]:
    """The pixels of every photograph of a folder; of two photographs inside scikit-learn by default.

    The task is to represent one picture, not to guess at others: train, validation and test are the same
    pixels, all of them. Inputs are coordinates from -1 to 1, targets RGB from 0 to 1, and the column
    ``region`` holds the name of each pixel's region.

    Args:
        source: a folder with ``images/NAME.jpg`` and ``labels/NAME.png`` (its values are class numbers);
            ``class_names.json`` and ``manifest.json``, where they are, give names and an order.
        augment: must be False.
        side: photographs and label maps are reduced to so many pixels on the longer side.
    """
    if augment:
        raise UsageError("inr has no augmentation: it represents this picture and no other")
    found = shipped() if source is None else from_folder(Path(source).expanduser())
    return {one.name: pixels(one, side) for one in found}


def pixels(one: Labelled, side: int) -> Data:
    """A labelled photograph as data: coordinates, colours and regions.

    Even pixels come before odd ones, so that either half of a split holds every region.
    """
    photograph, labels = reduced(one.photograph, one.labels, side)
    try:
        names = regions(labels, one.names, one.ignored)
    except DataError as error:
        raise DataError(f"{one.name}: {error}") from None
    if len(np.unique(names)) < 2:
        raise DataError(
            f"{one.name} has a single region, {str(names.flat[0])!r}, after small ones were merged: tickets "
            "need two or more, so label it finer or take it out of the folder"
        )
    H, W = names.shape
    rows, columns = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    order = np.argsort(np.arange(H * W) % 2, kind="stable")
    xy = np.stack([columns, rows], -1).reshape(-1, 2)[order]
    rgb = photograph.reshape(-1, 3)[order] / 255
    split = Split(torch.tensor(xy).float(), torch.tensor(rgb).float(), {"region": names.reshape(-1)[order]})
    return Data(split, split, split)


def as_image(x: torch.Tensor, values: Any) -> NDArray[Any]:
    """Values ``[S, ...]`` of pixels at coordinates ``x [S, 2]``, as an image ``[H, W, ...]``."""
    (_, column), (_, row) = (np.unique(x[:, i].numpy(), return_inverse=True) for i in (0, 1))
    values = np.asarray(values)
    image = np.empty((row.max() + 1, column.max() + 1, *values.shape[1:]), values.dtype)
    image[row, column] = values
    return image


def shipped() -> list[Labelled]:
    """The two photographs inside scikit-learn, with regions found from colour and position."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()
    found = []
    for file, photograph in zip(photographs.filenames, photographs.images, strict=True):
        labels, names = segmented(photograph)
        found.append(Labelled(Path(file).stem, photograph, labels, names, frozenset()))
    return found


def from_folder(folder: Path) -> list[Labelled]:
    """The photographs of a folder with their label maps, in the order of its manifest or of their names."""
    if not (folder / "images").is_dir() or not (folder / "labels").is_dir():
        raise DataError(f"{folder} needs the folders images/ and labels/: photographs, and label maps (PNG)")
    classes = _json(folder / "class_names.json", {})
    rows = _json(folder / "manifest.json", None)
    if rows is None:
        files = sorted(f for f in (folder / "images").iterdir() if f.suffix.lower() in SUFFIXES)
        rows = [{"image": f"images/{f.name}", "label": f"labels/{f.stem}.png"} for f in files]
    listed = isinstance(rows, list) and all(isinstance(r, dict) for r in rows)
    if not listed or not all({"image", "label"} <= set(r) for r in rows):
        raise DataError(f"{folder / 'manifest.json'} must be a list of objects with image and label")
    if not rows:
        raise DataError(f"{folder / 'images'} holds no photographs ({', '.join(sorted(SUFFIXES))})")
    found = [_labelled(folder, row, classes) for row in rows]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{folder / 'images'} has two photographs called {twice}: rename one of them")
    return found


def _labelled(folder: Path, row: Mapping[str, Any], classes: Mapping[str, Any]) -> Labelled:
    kind = str(row.get("classes", ""))
    photograph = _pixels(folder / row["image"], "RGB")
    labels = _pixels(folder / row["label"], None)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise DataError(f"{folder / row['label']} must have one channel of class numbers: got {labels.shape}")
    if labels.shape != photograph.shape[:2]:
        raise DataError(
            f"{folder / row['label']} is {labels.shape[1]}×{labels.shape[0]}, its photograph is "
            f"{photograph.shape[1]}×{photograph.shape[0]}: they need one size"
        )
    named = classes.get(kind, {}) if kind else classes
    pairs = enumerate(named) if isinstance(named, list) else named.items()
    names = {int(number): name for number, name in pairs if isinstance(name, str)}
    ignored = IGNORED.get(kind, IGNORED[""])
    return Labelled(Path(row["image"]).stem, photograph, labels.astype(np.int64), names, ignored)


def _pixels(file: Path, mode: str | None) -> NDArray[Any]:
    if not file.is_file():
        raise DataError(f"{file} is missing: every photograph needs its label map, of the same name")
    try:
        with Image.open(file) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except Exception as error:  # decoders raise many kinds for a damaged file
        raise DataError(f"{file} is no image that can be read ({error})") from None


def _json(file: Path, default: Any) -> Any:
    if not file.is_file():
        return default
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file} is no JSON ({error})") from None


# -- regions -------------------------------------------------------------------------------------------------


def reduced(photograph: Bytes, labels: Ints, side: int) -> tuple[Bytes, Ints]:
    """Both with at most ``side`` pixels on the longer side: mean colour and most frequent label."""
    H, W = labels.shape
    scale = min(1.0, side / max(H, W))
    size = max(1, round(W * scale)), max(1, round(H * scale))
    if scale == 1.0:
        return photograph, labels
    found = np.unique(labels)
    each = [photograph, *((labels == label).astype(np.float32) for label in found)]
    small, *shares = (np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in each)
    return small, found[np.argmax(shares, 0)]


def regions(
    labels: Ints, names: Mapping[int, str], ignored: frozenset[int] = frozenset()
) -> NDArray[np.str_]:
    """The name of every pixel's region ``[H, W]``: one per class, all its instances together.

    Pixels without a class, regions of less than 2% of the picture, and pieces of fewer than 8 pixels are
    given to the region of the nearest pixel that has one.

    >>> regions(np.array([[1, 1, 2, 2], [1, 0, 2, 2]]), {1: "sky", 2: "sea"}, frozenset({0}))[1].tolist()
    ['sky', 'sky', 'sea', 'sea']
    """
    found, numbers = np.unique(labels, return_inverse=True)
    named = np.array([names.get(int(label), f"class {label}") for label in found])
    known = ~np.isin(found, list(ignored))
    if not known.any():
        raise DataError("the label map holds no class at all: every pixel has a number that means none")
    numbers = numbers.reshape(labels.shape)
    areas = {  # several numbers may have one name
        name: known[numbers] & (named[numbers] == name) for name in dict.fromkeys(named[known].tolist())
    }
    large = {name: area for name, area in areas.items() if area.mean() >= LEAST_SHARE}
    if not large:
        large = dict([max(areas.items(), key=lambda item: item[1].sum())])
    assigned = np.full(labels.shape, -1)
    for number, area in enumerate(large.values()):
        assigned[_without_strays(area)] = number
    nearest = scipy.ndimage.distance_transform_edt(assigned < 0, return_distances=False, return_indices=True)
    return np.array(list(large))[assigned[tuple(nearest)]]


def _without_strays(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The area without pieces that are too small; its largest piece always stays."""
    pieces, _ = scipy.ndimage.label(area)
    sizes = np.bincount(pieces.ravel())[1:]
    solid = np.flatnonzero((sizes >= LEAST_PIECE) | (sizes == sizes.max())) + 1
    return np.isin(pieces, solid)


def segmented(photograph: Bytes, side: int = SIDE) -> tuple[Ints, dict[int, str]]:
    """Regions of a photograph without labels: k-means on colour and position, the largest first.

    Found at ``side`` pixels on the longer side and enlarged; the same on every machine up to rounding.
    """
    from sklearn.cluster import KMeans

    H, W = photograph.shape[:2]
    small, _ = reduced(photograph, np.zeros((H, W), np.int64), side)
    h, w = small.shape[:2]
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    colour = scipy.ndimage.gaussian_filter(small / 255, (1.5, 1.5, 0))  # leaves and tiles are no regions
    features = np.concatenate([colour, 0.7 * y[..., None], 0.7 * x[..., None]], -1).reshape(h * w, 5)
    found = KMeans(CLUSTERS, n_init=4, random_state=0).fit_predict(features)
    order = np.argsort(-np.bincount(found), kind="stable")
    labels = scipy.ndimage.median_filter(np.argsort(order)[found].reshape(h, w), 5)
    enlarged = Image.fromarray(labels.astype(np.uint8)).resize((W, H), Image.Resampling.NEAREST)
    return np.asarray(enlarged).astype(np.int64), {k: f"area {k + 1}" for k in range(CLUSTERS)}
