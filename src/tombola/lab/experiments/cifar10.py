"""CIFAR-10, one ticket per class: experiment 1 of RTL (arXiv 2601.22141, Table 1 and Appendix A)."""

from __future__ import annotations

import torch
from torch import nn

from tombola.data import partition
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.lab.experiments.experiment import Experiment, Preset
from tombola.lab.experiments.image_files import list_images
from tombola.lab.experiments.images import Normalise, crop_and_flip, decode, set_aside
from tombola.lab.models.ghostnet import GhostNet
from tombola.objectives import OneVsRest
from tombola.recipe import TrainConfig
from tombola.settings import Settings

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUB = "uoft-cs/cifar10"
VALIDATION = 5_000
# Published statistics of the training pixels.
NORMALISE = Normalise((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def load(source: str | None, augment: bool) -> Data:
    """50,000 training images, 5,000 of them set aside for validation, and 10,000 test images."""
    rest, test = list_images(source or HUB, NAMES, "label")
    train, validation = set_aside(rest, VALIDATION, source, "cifar10")
    splits, augmented = decode(32, train, validation, test), crop_and_flip if augment else None
    return Data(*splits, prepare=NORMALISE, augment=augmented)


def backbone(generator: torch.Generator) -> nn.Module:
    """`GhostNet`, 125,832 prunable weights."""
    return GhostNet(10, generator)


def by_class(data: Data) -> Partition:
    """One subset per class."""
    return partition.by_label(data, NAMES)


def _row(balanced: float, precision: float, recall: float, union: float) -> dict[str, float]:
    return {"balanced_accuracy": balanced, "precision": precision, "recall": recall, "union": union}


PAPER = {
    ("rtl", 0.25): _row(0.781, 0.282, 0.821, 103e3),
    ("rtl", 0.5): _row(0.778, 0.276, 0.810, 72e3),
    ("rtl", 0.75): _row(0.772, 0.257, 0.816, 38e3),
    ("imp", 0.25): _row(0.711, 0.479, 0.480, 94e3),
    ("imp", 0.5): _row(0.711, 0.478, 0.480, 63e3),
    ("imp", 0.75): _row(0.732, 0.515, 0.518, 31e3),
    ("imp_per_subset", 0.25): _row(0.712, 0.233, 0.701, 944e3),
    ("imp_per_subset", 0.5): _row(0.710, 0.222, 0.702, 629e3),
    ("imp_per_subset", 0.75): _row(0.760, 0.262, 0.766, 314e3),
}

CIFAR10 = Experiment(
    name="cifar10",
    summary="CIFAR-10, one ticket per class (K = 10), GhostNet",
    data="60,000 images of 32×32: --data FOLDER (Parquet, or train/CLASS/*.png), or a hub name",
    load=load,
    backbone=backbone,
    partition=by_class,
    objective=OneVsRest(),
    presets={
        "quick": Preset(
            Settings(
                schedule="one_shot",
                T=10,
                steps=20,
                statistics=5,
                search=TrainConfig(lr=1e-3, batch_size=320),
                train=TrainConfig(lr=6e-3, batch_size=320, lr_schedule="cosine"),
            ),
            "three rounds, three trainings; meant for 8 minutes a method and seed on two idle cores",
        ),
        "paper": Preset(
            Settings(
                schedule="fixed_count:4096",
                T=29,  # one epoch of a ticket: 2 × 4,500 balanced samples in batches of 320
                steps=290,  # ten epochs
                search=TrainConfig(lr=1e-4, batch_size=320),
                train=TrainConfig(lr=1e-4, batch_size=320),
            ),
            "the paper's hyperparameters: 4,096 weights a round of one epoch, ten epochs of retraining",
        ),
        "best": Preset(
            Settings(
                schedule="one_shot",
                T=10,
                rewind=120,
                steps=60,
                normalization="per_ticket",
                search=TrainConfig(lr=1e-3, batch_size=320),
                train=TrainConfig(lr=6e-3, batch_size=320, lr_schedule="cosine"),
            ),
            "our own recipe: late rewinding to a shared dense start, private norm affines, longer training",
        ),
    },
    paper=PAPER,
)
