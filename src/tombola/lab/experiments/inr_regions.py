"""From a label map to few and solid regions: reduced, merged by class, without strays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tombola._utils.errors import DataError

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


@dataclass(frozen=True)
class Reduced:
    """A smaller photograph uint8 ``[h, w, 3]`` and its label map ``[h, w]``."""

    photograph: NDArray[np.uint8]
    labels: Ints


def reduced(photograph: NDArray[np.uint8], labels: Ints, side: int) -> Reduced:
    """Both with at most ``side`` pixels on the longer side: mean colour and most frequent label.

    Smaller ones stay as they are.
    """
    H, W = labels.shape
    scale = min(1.0, side / max(H, W))
    size = max(1, round(W * scale)), max(1, round(H * scale))
    if scale == 1.0:
        return Reduced(photograph, labels)
    found = np.unique(labels)
    shares = [_box((labels == label).astype(np.float32), size) for label in found]
    small = Image.fromarray(photograph).resize(size, Image.Resampling.BOX)
    return Reduced(np.asarray(small), found[np.argmax(shares, 0)])


def _box(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def regions(
    labels: Ints, names: Mapping[int, str], ignored: frozenset[int] = frozenset()
) -> NDArray[np.str_]:
    """The name of every pixel's region ``[H, W]``: one per class, all its instances together.

    Pixels without a class, regions of less than 2% of the picture, and pieces of fewer than 8 pixels are
    given to the region of the nearest pixel that has one.

    Raises:
        DataError: no pixel has a class.

    >>> regions(np.array([[1, 1, 2, 2], [1, 0, 2, 2]]), {1: "sky", 2: "sea"}, frozenset({0}))[1].tolist()
    ['sky', 'sky', 'sea', 'sea']
    """
    named = {int(label): names.get(int(label), f"class {label}") for label in np.unique(labels)}
    known = [named[label] for label in named if label not in ignored]
    if not known:
        raise DataError("the label map holds no class at all: every pixel has a number that means none")
    areas = {name: _area(labels, named, name, ignored) for name in dict.fromkeys(known)}
    large = {name: area for name, area in areas.items() if area.mean() >= LEAST_SHARE}
    if not large:
        large = dict([max(areas.items(), key=lambda item: item[1].sum())])
    assigned = np.full(labels.shape, -1)
    for number, area in enumerate(large.values()):
        assigned[_without_strays(area)] = number
    nearest = ndimage.distance_transform_edt(assigned < 0, return_distances=False, return_indices=True)
    return np.array(list(large))[assigned[tuple(nearest)]]


def _area(labels: Ints, named: Mapping[int, str], name: str, ignored: frozenset[int]) -> NDArray[np.bool_]:
    """Where this class is; several numbers may have one name."""
    return np.isin(labels, [label for label, own in named.items() if own == name and label not in ignored])


def _without_strays(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The area without pieces that are too small; its largest piece always stays."""
    pieces, _ = ndimage.label(area)
    sizes = np.bincount(pieces.ravel())[1:]
    solid = np.flatnonzero((sizes >= LEAST_PIECE) | (sizes == sizes.max())) + 1
    return np.isin(pieces, solid)


def segmented(photograph: NDArray[np.uint8], side: int = 128) -> tuple[Ints, dict[int, str]]:
    """Regions of a photograph without labels: k-means on colour and position, the largest first.

    Found at ``side`` pixels on the longer side and enlarged; the same on every machine up to rounding.
    """
    from sklearn.cluster import KMeans

    H, W = photograph.shape[:2]
    small = reduced(photograph, np.zeros((H, W), np.int64), side).photograph
    h, w = small.shape[:2]
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    colour = ndimage.gaussian_filter(small / 255, (1.5, 1.5, 0))  # leaves and tiles are no regions
    features = np.concatenate([colour, 0.7 * y[..., None], 0.7 * x[..., None]], -1).reshape(h * w, 5)
    found = KMeans(CLUSTERS, n_init=4, random_state=0).fit_predict(features)
    order = np.argsort(-np.bincount(found), kind="stable")
    labels = ndimage.median_filter(np.argsort(order)[found].reshape(h, w), 5)
    enlarged = Image.fromarray(labels.astype(np.uint8)).resize((W, H), Image.Resampling.NEAREST)
    return np.asarray(enlarged).astype(np.int64), {k: f"area {k + 1}" for k in range(CLUSTERS)}
