"""Speech enhancement, one ticket per acoustic scene: experiment 4 of RTL (arXiv 2601.22141, Appendix D)."""

from __future__ import annotations

import torch
from torch import nn

from tombola.data import partition
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.lab.experiments.experiment import Experiment, Preset
from tombola.lab.experiments.speech_clips import read_clips
from tombola.lab.experiments.speech_mixing import mixtures
from tombola.lab.experiments.speech_pictures import draw
from tombola.lab.experiments.speech_synthetic import synthetic_clips
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.objectives import Enhancement
from tombola.recipe import TrainConfig
from tombola.settings import Settings

# All convolution weights, the last one too, as the paper counts them; those of norms end in ".1.weight".
SCOPE = ("down.*.0.weight", "up.*.0.weight", "mask.weight")


def load(source: str | None, augment: bool) -> Data:
    """Mixtures of the clips in a folder, or of synthetic ones; ``augment`` draws noise afresh."""
    return mixtures(synthetic_clips() if source is None else read_clips(source), augment)


def backbone(generator: torch.Generator) -> nn.Module:
    """`SpeechUNet`, 37,368 prunable weights."""
    return SpeechUNet(generator=generator)


def by_scene(data: Data) -> Partition:
    """One subset per acoustic scene."""
    return partition.by_column(data, "scene")


def _row(si_snri: float, union: float) -> dict[str, float]:
    return {"si_snri": si_snri, "union": union}


PAPER = {
    ("rtl", 0.25): _row(7.248, 32.0e3),
    ("rtl", 0.5): _row(7.178, 22.8e3),
    ("rtl", 0.75): _row(6.992, 12.3e3),
    ("imp", 0.25): _row(6.885, 28.0e3),
    ("imp", 0.5): _row(6.970, 18.6e3),
    ("imp", 0.75): _row(6.967, 9.3e3),
    ("imp_per_subset", 0.25): _row(5.295, 84.1e3),
    ("imp_per_subset", 0.5): _row(5.775, 56.1e3),
    ("imp_per_subset", 0.75): _row(5.899, 28.0e3),
}

SPEECH = Experiment(
    name="speech",
    summary="speech enhancement, one ticket per acoustic scene (K = 3), U-Net",
    data=(
        "synthetic voices in synthetic noise, no real speech; real: --data FOLDER with manifest.csv of "
        "speech and of noise by scene"
    ),
    load=load,
    backbone=backbone,
    partition=by_scene,
    objective=Enhancement(),
    presets={
        "quick": Preset(
            Settings(
                schedule="one_shot",
                T=20,
                rewind=400,
                steps=150,
                normalization="per_ticket",
                statistics=20,
                search=TrainConfig(lr=3e-3, batch_size=4),
                train=TrainConfig(lr=1e-2, batch_size=4, lr_schedule="cosine"),
                include=SCOPE,
            ),
            "late rewinding, private norms, three rounds and three trainings on crops of one second",
            augment=True,
        ),
        "paper": Preset(
            Settings(
                schedule="fraction:0.13",  # ten rounds to 75%
                T=60,  # about one epoch of 970 crops
                steps=600,  # ten
                search=TrainConfig(lr=1e-4, batch_size=16),
                train=TrainConfig(lr=1e-4, batch_size=16),
                include=SCOPE,
            ),
            "the paper's: learning rate 1e-4, ten rounds of an epoch, ten epochs of retraining",
            augment=True,
        ),
    },
    paper=PAPER,
    stand_in="synthetic voices and noise",
    draw=draw,
)
