"""Speech enhancement, one ticket per acoustic scene: experiment 4 of RTL (arXiv 2601.22141, Appendix D)."""

from __future__ import annotations

from functools import partial

from tombola.data.dataset import Data
from tombola.data.partition import by_column
from tombola.lab.experiments.experiment import Experiment, Preset, constant_settings, figures, preset_settings
from tombola.lab.experiments.speech_data import mixtures, read_clips
from tombola.lab.experiments.speech_pictures import draw
from tombola.lab.experiments.speech_synthetic import synthetic_clips
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.objectives import Enhancement

# All convolution weights, the last one too, as the paper counts them; those of norms end in ".1.weight".
SCOPE = ("down.*.0.weight", "up.*.0.weight", "mask.weight")


def load(source: str | None, augment: bool) -> Data:
    """Mixtures of the clips in a folder, or of synthetic ones; ``augment`` draws noise afresh."""
    return mixtures(synthetic_clips() if source is None else read_clips(source), augment)


QUICK = preset_settings(
    search=3e-3,
    train=1e-2,
    batch_size=4,
    schedule="one_shot",
    T=20,
    normalization="per_ticket",
    rewind=400,
    steps=150,
    statistics=20,
    include=SCOPE,
)
PAPER = constant_settings(
    1e-4,
    16,
    schedule="fraction:0.13",  # ten rounds to 75%
    T=60,  # about one epoch of 970 crops
    steps=600,  # ten
    include=SCOPE,
)

SPEECH = Experiment(
    name="speech",
    summary="speech enhancement, one ticket per acoustic scene (K = 3), U-Net",
    data=(
        "synthetic voices in synthetic noise, no real speech; real: --data FOLDER with manifest.csv of "
        "speech and of noise by scene"
    ),
    load=load,
    backbone=partial(SpeechUNet, 2),  # 37,368 prunable weights
    partition=partial(by_column, column="scene"),
    objective=Enhancement(),
    presets={
        "quick": Preset(
            QUICK,
            "late rewinding, private norms, three rounds and three trainings on crops of one second",
            True,
        ),
        "paper": Preset(
            PAPER, "the paper's: learning rate 1e-4, ten rounds of an epoch, ten epochs of retraining", True
        ),
    },
    paper=figures(
        "si_snri union",
        rtl=[(7.248, 32.0e3), (7.178, 22.8e3), (6.992, 12.3e3)],
        imp=[(6.885, 28.0e3), (6.970, 18.6e3), (6.967, 9.3e3)],
        imp_per_subset=[(5.295, 84.1e3), (5.775, 56.1e3), (5.899, 28.0e3)],
    ),
    stand_in="synthetic voices and noise",
    draw=draw,
)
