"""Handwritten digits, 8×8, which ship with scikit-learn: the experiment that needs nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tombola._utils.errors import UsageError
from tombola.data.dataset import Data
from tombola.data.partition import by_label
from tombola.lab.experiments.experiment import Experiment, Preset, preset_settings
from tombola.lab.models.convnet import SmallConvNet
from tombola.objectives import OneVsRest

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHARES: dict[str, Any] = {"validation": 0.15, "test": 0.25}


def load(source: str | None, augment: bool) -> Data:
    """1,797 images ``[1, 8, 8]`` with values 0 to 1, split once and for all."""
    if source is not None:
        raise UsageError("digits ships with scikit-learn and takes no --data")
    if augment:
        raise UsageError("digits has no augmentation: a flipped digit is another sign")
    return Data.of(*images(), **SHARES)


def images(classes: int = 10) -> tuple[Tensor, Tensor]:
    """The first digits: images float ``[S, 1, 8, 8]`` with values 0 to 1, and labels ``[S]``."""
    from sklearn.datasets import load_digits  # only here: `--help` lists the experiments

    digits = load_digits(n_class=classes)
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def large_images(classes: int = 10, side: int = 32) -> tuple[Tensor, Tensor]:
    """The same as larger RGB images, uint8, to stand in for photographs."""
    x, y = images(classes)
    large = interpolate(x, size=(side, side), mode="bilinear") * 255
    return large.round().to(torch.uint8).repeat(1, 3, 1, 1), y


DIGITS = Experiment(
    name="digits",
    summary="handwritten digits, one ticket per digit (K = 10)",
    data="1,797 images of 8×8, inside scikit-learn",
    load=load,
    backbone=partial(SmallConvNet, 10, 1),
    partition=partial(by_label, names=NAMES),
    objective=OneVsRest(),
    presets={
        "quick": Preset(
            preset_settings(3e-3, 3e-3, 64, schedule="fraction:0.4", T=10, steps=25, statistics=4),
            "all methods and controls in under three minutes on two cores",
        ),
    },
)
