"""Handwritten digits, 8×8, which ship with scikit-learn: the experiment that needs nothing."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from tombola._utils.errors import UsageError
from tombola.data import partition
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.lab.experiments.experiment import Experiment, Preset
from tombola.lab.models.convnet import SmallConvNet
from tombola.objectives import OneVsRest
from tombola.recipe import TrainConfig
from tombola.settings import Settings

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def load(source: str | None, augment: bool) -> Data:
    """1,797 images ``[1, 8, 8]`` with values 0 to 1, split once and for all."""
    if source is not None:
        raise UsageError("digits ships with scikit-learn and takes no --data")
    if augment:
        raise UsageError("digits has no augmentation: a flipped digit is another sign")
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    return Data.of(x, torch.tensor(digits.target), validation=0.15, test=0.25)


def backbone(generator: torch.Generator) -> nn.Module:
    """`SmallConvNet`."""
    return SmallConvNet(generator=generator)


def by_digit(data: Data) -> Partition:
    """One subset per digit."""
    return partition.by_label(data, NAMES)


DIGITS = Experiment(
    name="digits",
    summary="handwritten digits, one ticket per digit (K = 10)",
    data="1,797 images of 8×8, inside scikit-learn",
    load=load,
    backbone=backbone,
    partition=by_digit,
    objective=OneVsRest(),
    presets={
        "quick": Preset(
            Settings(
                schedule="fraction:0.4",
                T=10,
                steps=25,
                statistics=4,
                search=TrainConfig(lr=3e-3, batch_size=64),
                train=TrainConfig(lr=3e-3, batch_size=64, lr_schedule="cosine"),
            ),
            "all methods and controls in under three minutes on two cores",
        ),
    },
)
