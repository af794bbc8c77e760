"""CIFAR-100 read in several ways: the same images under four questions, one ticket each.

Which superclass (20), living or not (2), which colour (7), which semantic cluster (8). Every image is there
once for each question, named in the column ``question``; the answers to each are classes from 0 on, and each
ticket has an output layer of its own.

Shape letters: S samples of a split, Q questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import UsageError
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab.experiments import digits
from tombola.lab.experiments.cifar100 import CLUSTERS, NAMES, NORMALISE, SUPERCLASSES, VALIDATION, group_of
from tombola.lab.experiments.experiment import Experiment, Preset, preset_settings
from tombola.lab.experiments.images import decode, list_images, set_aside
from tombola.lab.experiments.tenants import HEADS, SPARSITIES
from tombola.lab.models.lenet import LeNet
from tombola.objectives import Classification

TRAIN, TEST = 10_000, 2_000  # images at most; each is there four times
LIFELESS = (  # plants and people live; scenes do not, whatever grows there
    *("food_containers", "household_electrical_devices", "household_furniture", "vehicles_1", "vehicles_2"),
    *("large_man-made_outdoor_things", "large_natural_outdoor_scenes"),
)
COLOURS = ("grey", "red", "yellow", "green", "cyan", "blue", "magenta")
GREY = 0.1  # mean chroma below which an image has no colour
STAND_IN = "digits-not-cifar100"


def colour_of(x: Tensor) -> Tensor:
    """The colour of images uint8 ``[S, 3, H, W]``, a number of `COLOURS` each, int64 ``[S]``.

    Every pixel votes for the sixth of the circle of hues that it lies in (red reaches from -30° to 30°),
    weighed by its chroma, max - min of its channels; it is grey where the mean chroma is below a tenth.

    >>> plain = torch.tensor([[200, 200, 200], [255, 0, 0], [0, 0, 99], [120, 120, 0]], dtype=torch.uint8)
    >>> [COLOURS[n] for n in colour_of(plain[:, :, None, None])]
    ['grey', 'red', 'blue', 'yellow']
    """
    rgb = x.float() / 255
    r, g, b = rgb.unbind(1)
    chroma = rgb.amax(1) - rgb.amin(1)
    hue = torch.atan2(3**0.5 * (g - b), 2 * r - g - b)  # of the hexagon's circle, from -π to π
    sixth = (hue * 3 / torch.pi).round().long() % 6
    votes = torch.zeros(len(x), 6).scatter_add_(1, sixth.flatten(1), chroma.flatten(1))
    return torch.where(chroma.flatten(1).mean(1) < GREY, 0, votes.argmax(1) + 1)


def asked(x: Tensor, answers: Mapping[str, Tensor], column: str = "question") -> Split:
    """Every sample once for each question, side by side, with its answer and a column of the questions.

    >>> asked(torch.rand(2, 3), {"odd": torch.tensor([0, 1]), "which": torch.tensor([4, 7])}).y.tolist()
    [0, 4, 1, 7]
    """
    y_SQ = torch.stack(list(answers.values()), 1)
    named = np.tile(list(answers), len(x))
    return Split(x.repeat_interleave(len(answers), 0), y_SQ.flatten(), {column: named})


def load(source: str | None, augment: bool) -> Data | Mapping[str, Data]:
    """CIFAR-100 from a source of `list_images`, at most so many images of it, under four questions each.

    Without a source the digits of scikit-learn stand in under questions of their own, as an item.
    """
    if augment:
        raise UsageError("attributes has no augmentation: the questions are about images as they are")
    if source is None:
        return {STAND_IN: stand_in()}
    listed, test = list_images(source, NAMES, "fine_label")
    rest, validation = set_aside(listed, VALIDATION, source, "cifar100")
    parts = decode(32, rest.first(TRAIN), validation.first(TEST), test.first(TEST))
    train, validated, tested = (asked(split.x, answers(split)) for split in parts)
    return Data(train, validated, tested, NORMALISE)


def answers(split: Split) -> dict[str, Tensor]:
    """The answers about images of CIFAR-100, from their classes and their pixels."""
    superclass_S = _number(SUPERCLASSES)[split.y]
    lives = torch.tensor([name not in LIFELESS for name in SUPERCLASSES]).long()
    return {
        "superclass": superclass_S,
        "living": lives[superclass_S],
        "colour": torch.cat([colour_of(part) for part in split.x.split(1000)]),
        "cluster": _number(CLUSTERS)[split.y],
    }


def _number(groups: Mapping[str, str]) -> Tensor:
    """The number of the group of each class."""
    return torch.tensor([[*groups].index(group) for group in group_of(NAMES, groups)])


def stand_in(column: str = "question") -> Data:
    """Digits as RGB images of 32×32: which one, odd or not, five or more, and how much ink (four steps)."""
    plain = Data.of(*digits.large_images(), **digits.SHARES)

    def part(split: Split) -> Split:
        y, ink = split.y, split.x.flatten(1).float().mean(1)
        steps = torch.bucketize(ink, torch.tensor([71.0, 78.0, 84.0]))  # about a quarter each
        return asked(split.x, {"digit": y, "odd": y % 2, "large": (y >= 5).long(), "ink": steps}, column)

    return Data(part(plain.train), part(plain.validation), part(plain.test), NORMALISE)


QUICK = preset_settings(
    1e-3, 1e-3, 64, sparsity=SPARSITIES, schedule="fraction:0.4", T=50, steps=200, private=HEADS
)
PRESETS = {
    "quick": Preset(QUICK, "a few epochs a ticket; shows that everything works, in ten minutes"),
    "best": Preset(replace(QUICK, T=150, steps=1000), "four times the training of quick"),
}

ATTRIBUTES = Experiment(
    name="attributes",
    summary="CIFAR-100 under four questions, one ticket each (K = 4), LeNet, an output layer each",
    data=(
        f"{TRAIN:,} images of 32×32 to train on, {TEST:,} to test: --data FOLDER (Parquet, or "
        "train/CLASS/*.png); without --data scikit-learn's digits under other questions stand in, as the "
        f"item {STAND_IN}"
    ),
    load=load,
    backbone=partial(LeNet, len(SUPERCLASSES)),
    partition=partial(by_column, column="question"),
    objective=Classification("subset"),
    presets=PRESETS,
    stand_in="digits under other questions",
)
