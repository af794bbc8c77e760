"""Pictures as networks, one ticket per region: experiment 3 of RTL (arXiv 2601.22141, Table 2)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tombola.data.partition import by_column
from tombola.lab.experiments.experiment import Experiment, Preset, constant_settings, figures, preset_settings
from tombola.lab.experiments.inr_data import load
from tombola.lab.experiments.inr_pictures import draw
from tombola.lab.models.coordinate_mlp import CoordinateMLP
from tombola.objectives.reconstruction import Reconstruction

WEIGHTS = ("*.weight",)  # the output layer too: the paper's 53,888
# With 200 steps the single mask is ahead of the tickets, over all pixels.
QUICK = preset_settings(1e-2, 1e-2, 256, schedule="one_shot", T=100, steps=600, include=WEIGHTS)
# Sines bear smaller steps, and masks from a search at 0.001 are close to random ones (kappa 0.08).
QUICK_SIREN = replace(QUICK, search=replace(QUICK.search, lr=3e-4), train=replace(QUICK.train, lr=1e-3))
PAPER = constant_settings(1e-2, 1024, schedule="fixed_count:4096", T=10_000, steps=10_000, include=WEIGHTS)
RELU = partial(CoordinateMLP, "relu", 128, 4, 3)
SIREN = partial(CoordinateMLP, "siren", 128, 4, 3)

INR = Experiment(
    name="inr",
    summary="pictures as networks of coordinates, one ticket per region, a network per picture",
    data="photographs with label maps: --data FOLDER (images/, labels/); two inside scikit-learn by default",
    load=load,
    backbone=RELU,
    partition=partial(by_column, column="region"),
    objective=Reconstruction(),
    presets={
        "quick": Preset(
            QUICK,
            "three rounds of 100 steps a ticket, three trainings of 600: a minute per picture, method, seed",
        ),
        "paper": Preset(
            PAPER,
            "the paper's hyperparameters: 4,096 weights a round of 10,000 steps at 0.01; hours per picture",
        ),
    },
    paper=figures(
        "psnr union",
        rtl=[(18.86, 48.0e3), (17.25, 36.5e3), (14.87, 22.0e3)],
        # The paper's "IMP (single model)" is told the class by an embedding.
        imp_context=[(15.94, 40.5e3), (14.72, 27.0e3), (12.69, 13.5e3)],
    ),
    stand_in="two photographs inside scikit-learn",
    draw=partial(draw, backbone=RELU),
)

INR_SIREN = replace(
    INR,
    name="inr_siren",
    summary="inr with sines instead of ReLU (SIREN)",
    backbone=SIREN,
    presets={"quick": Preset(QUICK_SIREN, "as quick of inr, at learning rates for sines")},
    paper={},
    draw=partial(draw, backbone=SIREN),
)
