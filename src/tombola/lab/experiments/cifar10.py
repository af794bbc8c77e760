"""CIFAR-10, one ticket per class: experiment 1 of RTL (arXiv 2601.22141, Table 1 and Appendix A)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tombola.data.dataset import Data
from tombola.data.images import Normalise
from tombola.data.partition import by_label
from tombola.lab.experiments.experiment import Experiment, Preset, constant_settings, figures, preset_settings
from tombola.lab.experiments.images import image_data, list_images, set_aside
from tombola.lab.models.ghostnet import GhostNet
from tombola.objectives import OneVsRest

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUB = "uoft-cs/cifar10"
VALIDATION = 5_000
# Published statistics of the training pixels.
NORMALISE = Normalise((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def load(source: str | None, augment: bool) -> Data:
    """50,000 training images, 5,000 of them set aside for validation, and 10,000 test images."""
    rest, test = list_images(source or HUB, NAMES, "label")
    return image_data(32, (*set_aside(rest, VALIDATION, source, "cifar10"), test), NORMALISE, augment)


QUICK = preset_settings(1e-3, 6e-3, 320, schedule="one_shot", T=10, steps=20, statistics=5)
PAPER = constant_settings(
    1e-4,
    320,
    schedule="fixed_count:4096",
    T=29,  # one epoch of a ticket: 2 × 4,500 balanced samples in batches of 320
    steps=290,  # ten epochs
)
BEST = replace(QUICK, rewind=120, steps=60, normalization="per_ticket", statistics=10)
# The two that the experiments on CIFAR-100 share.
PAPERS = "the paper's hyperparameters: 4,096 weights a round of one epoch, ten epochs of retraining"
OURS = "our own recipe: late rewinding to a shared dense start, private norm affines, longer training"

CIFAR10 = Experiment(
    name="cifar10",
    summary="CIFAR-10, one ticket per class (K = 10), GhostNet",
    data="60,000 images of 32×32: --data FOLDER (Parquet, or train/CLASS/*.png), or a hub name",
    load=load,
    backbone=partial(GhostNet, 10),  # 125,832 prunable weights
    partition=partial(by_label, names=NAMES),
    objective=OneVsRest(),
    presets={
        "quick": Preset(
            QUICK, "three rounds, three trainings; meant for 8 minutes a method and seed on two idle cores"
        ),
        "paper": Preset(PAPER, PAPERS),
        "best": Preset(BEST, OURS),
    },
    paper=figures(
        "balanced_accuracy precision recall union",
        rtl=[(0.781, 0.282, 0.821, 103e3), (0.778, 0.276, 0.810, 72e3), (0.772, 0.257, 0.816, 38e3)],
        imp=[(0.711, 0.479, 0.480, 94e3), (0.711, 0.478, 0.480, 63e3), (0.732, 0.515, 0.518, 31e3)],
        imp_per_subset=[
            (0.712, 0.233, 0.701, 944e3),
            (0.710, 0.222, 0.702, 629e3),
            (0.760, 0.262, 0.766, 314e3),
        ],
    ),
)
