"""Pictures as networks, one ticket per region: experiment 3 of RTL (arXiv 2601.22141, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tombola.data import partition
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.lab.experiments import inr_pictures
from tombola.lab.experiments.experiment import Experiment, Finished, Preset
from tombola.lab.experiments.inr_data import load
from tombola.lab.models.coordinate_mlp import CoordinateMLP
from tombola.objectives.reconstruction import Reconstruction
from tombola.recipe import TrainConfig
from tombola.settings import Settings


def backbone(generator: torch.Generator) -> nn.Module:
    """`CoordinateMLP` with ReLU, 53,888 prunable weights."""
    return CoordinateMLP(generator=generator)


def siren(generator: torch.Generator) -> nn.Module:
    """`CoordinateMLP` with sines."""
    return CoordinateMLP("siren", generator=generator)


def by_region(data: Data) -> Partition:
    """One subset per region of the picture."""
    return partition.by_column(data, "region")


def _row(psnr: float, union: float) -> dict[str, float]:
    return {"psnr": psnr, "union": union}


# The paper's "IMP (single model)" is told the class by an embedding: here that is `imp_context`.
PAPER = {
    ("rtl", 0.25): _row(18.86, 48.0e3),
    ("rtl", 0.5): _row(17.25, 36.5e3),
    ("rtl", 0.75): _row(14.87, 22.0e3),
    ("imp_context", 0.25): _row(15.94, 40.5e3),
    ("imp_context", 0.5): _row(14.72, 27.0e3),
    ("imp_context", 0.75): _row(12.69, 13.5e3),
}

WEIGHTS = ("*.weight",)  # the output layer too: the paper's 53,888
QUICK = Settings(
    schedule="one_shot",
    T=100,
    steps=600,  # with 200 the single mask is ahead of the tickets, over all pixels
    include=WEIGHTS,
    search=TrainConfig(lr=1e-2, batch_size=256),
    train=TrainConfig(lr=1e-2, batch_size=256, lr_schedule="cosine"),
)
# Sines bear smaller steps, and masks from a search at 0.001 are close to random ones (kappa .08).
QUICK_SIREN = replace(
    QUICK,
    search=TrainConfig(lr=3e-4, batch_size=256),
    train=TrainConfig(lr=1e-3, batch_size=256, lr_schedule="cosine"),
)


def _draw(runs: Sequence[Finished], out: Path) -> list[Path]:
    return inr_pictures.draw(runs, out, backbone)


def _draw_siren(runs: Sequence[Finished], out: Path) -> list[Path]:
    return inr_pictures.draw(runs, out, siren)


INR = Experiment(
    name="inr",
    summary="pictures as networks of coordinates, one ticket per region, a network per picture",
    data="photographs with label maps: --data FOLDER (images/, labels/); two inside scikit-learn by default",
    load=load,
    backbone=backbone,
    partition=by_region,
    objective=Reconstruction(),
    presets={
        "quick": Preset(
            QUICK,
            "three rounds of 100 steps a ticket, three trainings of 600: a minute per picture, method, seed",
        ),
        "paper": Preset(
            Settings(
                schedule="fixed_count:4096",
                T=10_000,
                steps=10_000,
                include=WEIGHTS,
                search=TrainConfig(lr=1e-2, batch_size=1024),
                train=TrainConfig(lr=1e-2, batch_size=1024),
            ),
            "the paper's hyperparameters: 4,096 weights a round of 10,000 steps at 0.01; hours per picture",
        ),
    },
    paper=PAPER,
    stand_in="two photographs inside scikit-learn",
    draw=_draw,
)

INR_SIREN = replace(
    INR,
    name="inr_siren",
    summary="inr with sines instead of ReLU (SIREN)",
    backbone=siren,
    presets={
        "quick": Preset(QUICK_SIREN, "as quick of inr, at learning rates for sines"),
    },
    paper={},
    draw=_draw_siren,
)
