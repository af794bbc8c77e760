"""CIFAR-100 with its superclasses and clusters as columns, and the stand-in for those who have no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from tombola._utils.errors import DataError, UsageError, unknown
from tombola.data.dataset import Data, Split
from tombola.lab.experiments.cifar100_classes import CLUSTERS, NAMES, SUPERCLASSES
from tombola.lab.experiments.image_files import Listed, list_images
from tombola.lab.experiments.images import Normalise, crop_and_flip, decode, set_aside

Part = TypeVar("Part", Split, Listed)
VALIDATION = 5_000
# Published statistics of the training pixels.
NORMALISE = Normalise((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

STAND_IN = "digits-not-cifar100"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHAPES = {
    "round digits": "zero six eight nine",
    "straight digits": "one four seven",
    "curved digits": "two three five",
}
PAIRS = {
    "zero and six": "zero six",
    "one and seven": "one seven",
    "two and three": "two three",
    "four and nine": "four nine",
    "five and eight": "five eight",
}


def load(source: str | None, augment: bool) -> Data | Mapping[str, Data]:
    """CIFAR-100 from a source of `list_images`; without one the stand-in, an item that is called so.

    Columns: the ``name`` of the class, its ``superclass`` and its ``cluster``.
    """
    if source is None:
        return {STAND_IN: stand_in(augment)}
    rest, test = list_images(source, NAMES, "fine_label")
    rest, test = (with_groups(part, NAMES, SUPERCLASSES, CLUSTERS) for part in (rest, test))
    train, validation = set_aside(rest, VALIDATION, source, "cifar100")
    splits, augmented = decode(32, train, validation, test), crop_and_flip if augment else None
    return Data(*splits, prepare=NORMALISE, augment=augmented)


def stand_in(augment: bool) -> Data:
    """scikit-learn's 1,797 digits as RGB images of 32×32; nothing that is measured on them is CIFAR-100."""
    if augment:
        raise UsageError(
            f"{STAND_IN} has no augmentation: a flipped digit is another sign; give CIFAR-100 with --data"
        )
    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)
    x = interpolate(small, size=(32, 32), mode="bilinear").round().to(torch.uint8).repeat(1, 3, 1, 1)
    whole = with_groups(Split(x, torch.tensor(digits.target)), DIGITS, PAIRS, SHAPES)
    return Data.of(whole.x, whole.y, whole.columns, validation=0.15, test=0.25, prepare=NORMALISE)


def with_groups(
    split: Part, names: Sequence[str], superclasses: Mapping[str, str], clusters: Mapping[str, str]
) -> Part:
    """A split, decoded or not, with the columns ``name``, ``superclass`` and ``cluster`` of its classes."""
    y = split.y.numpy()
    grouped = {"superclass": group_of(names, superclasses), "cluster": group_of(names, clusters)}
    columns = {key: np.array(values)[y] for key, values in {"name": names, **grouped}.items()}
    return replace(split, columns={**split.columns, **columns})


def group_of(names: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    """The group of each class, from a table of groups and their classes.

    >>> group_of(["ant", "cat", "bee"], {"insects": "ant bee", "pets": "cat"})
    ['insects', 'pets', 'insects']

    Raises:
        DataError: the table holds an unknown class, or one class twice, or lacks one.
    """
    listed = [(name, group) for group, members in groups.items() for name in members.split()]
    found = dict(listed)
    for name in found:
        if name not in names:
            raise DataError(unknown("class", name, names))
    twice = [name for i, (name, _) in enumerate(listed) if name in dict(listed[:i])]
    missing = [name for name in names if name not in found]
    if twice or missing:
        what = f"{twice[0]!r} is in two groups" if twice else f"{missing[0]!r} is in no group"
        raise DataError(f"every class belongs to one group: {what}")
    return [found[name] for name in names]
