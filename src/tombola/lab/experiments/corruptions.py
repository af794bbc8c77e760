"""Classification under four environments, one ticket each: a camera that is askew, blurred or noisy."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tombola._utils.errors import UsageError
from tombola.data import partition
from tombola.data.corruptions import ENVIRONMENTS, environments
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.lab.experiments import cifar10, digits
from tombola.lab.experiments.domain_pictures import DomainPictures
from tombola.lab.experiments.experiment import Experiment, Preset
from tombola.lab.models.convnet import SmallConvNet
from tombola.objectives import Classification
from tombola.recipe import TrainConfig
from tombola.settings import Settings


def load_digits(source: str | None, augment: bool) -> Data:
    """The digits, split as in `digits`, with an environment laid over each."""
    if source is not None:
        raise UsageError(
            "corruptions takes no --data: its digits ship with scikit-learn; for images of your "
            "own there are cifar10_corruptions and tombola.corruptions.environments"
        )
    return environments(digits.load(None, augment))


def load_cifar10(source: str | None, augment: bool) -> Data:
    """CIFAR-10, split as in `cifar10`, with an environment laid over each image."""
    return environments(cifar10.load(source, augment))


def small_convnet(generator: torch.Generator) -> nn.Module:
    """`SmallConvNet`, 18,576 prunable weights."""
    return SmallConvNet(generator=generator)


def by_environment(data: Data) -> Partition:
    """One subset per environment."""
    return partition.by_column(data, "environment", {name: name for name in ENVIRONMENTS})


def _digit_names(data: Data) -> list[str]:  # noqa: ARG001
    return [str(i) for i in range(10)]


def _cifar10_names(data: Data) -> list[str]:  # noqa: ARG001
    return cifar10.NAMES


CORRUPTIONS = Experiment(
    name="corruptions",
    summary=f"handwritten digits under {', '.join(ENVIRONMENTS)}, one ticket each (K = 4)",
    data="1,797 images of 8×8, inside scikit-learn",
    load=load_digits,
    backbone=small_convnet,
    partition=by_environment,
    objective=Classification(),
    presets={
        "quick": Preset(
            Settings(
                schedule="fraction:0.4",
                T=20,
                rewind=20,
                steps=150,
                normalization="per_ticket",
                search=TrainConfig(lr=3e-3, batch_size=32),
                train=TrainConfig(lr=6e-3, batch_size=32, lr_schedule="cosine"),
            ),
            "all methods and controls in a few minutes",
        ),
    },
    draw=DomainPictures(
        "corruptions",
        small_convnet,
        by_environment,
        _digit_names,
        lambda data: "digits under environments",  # noqa: ARG005
    ),
)

QUICK_CIFAR10 = Settings(
    schedule="one_shot",
    T=10,
    rewind=60,
    steps=180,
    normalization="per_ticket",
    search=TrainConfig(lr=1e-3, batch_size=160),
    train=TrainConfig(lr=6e-3, batch_size=160, lr_schedule="cosine"),
)
CIFAR10_CORRUPTIONS = Experiment(
    name="cifar10_corruptions",
    summary=f"CIFAR-10 under {', '.join(ENVIRONMENTS)}, one ticket each (K = 4), GhostNet",
    data="60,000 images of 32×32: --data FOLDER (Parquet, or train/CLASS/*.png), or a hub name",
    load=load_cifar10,
    backbone=cifar10.backbone,
    partition=by_environment,
    objective=Classification(),
    presets={
        "quick": Preset(
            QUICK_CIFAR10, "late rewinding, private norm affines; two and a half epochs a sparsity"
        ),
        "best": Preset(
            replace(QUICK_CIFAR10, T=40, rewind=300, steps=900),
            "five times the training of quick, on random crops and flips",
            augment=True,
        ),
    },
    draw=DomainPictures(
        "cifar10-corruptions",
        cifar10.backbone,
        by_environment,
        _cifar10_names,
        lambda data: "CIFAR-10 under environments",  # noqa: ARG005
    ),
)
