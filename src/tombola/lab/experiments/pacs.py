"""PACS, one ticket per visual domain: beyond the paper (data: Li et al., arXiv 1710.03077)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tombola._utils.rng import generator as random_generator
from tombola.data.corruptions import environments
from tombola.data.dataset import Data
from tombola.data.images import Normalise, crop_and_flip
from tombola.data.partition import Partition, by_column
from tombola.lab.experiments import digits
from tombola.lab.experiments.corruptions import by_environment
from tombola.lab.experiments.experiment import LATE_ONE_SHOT, Experiment, Preset, preset_settings
from tombola.lab.experiments.images import image_data, list_images
from tombola.lab.experiments.pictures import DomainPictures
from tombola.lab.models.ghostnet import GhostNet
from tombola.objectives import Classification

NAMES = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
DOMAINS = ["art_painting", "cartoon", "photo", "sketch"]
SIDE = 64
VALIDATION = 0.15
NORMALISE = Normalise((0.762, 0.742, 0.714), (0.295, 0.305, 0.334))  # of the training pixels
STAND_IN = "no PACS: digits 0 to 6 under four environments stand in"


def halved(x: Tensor) -> Tensor:
    """uint8 ``[B, 3, 2H, 2W]`` to normalised float ``[B, 3, H, W]``: the mean of 2×2 pixels."""
    return NORMALISE(avg_pool2d(x.float(), 2))


def load(source: str | None, augment: bool, half: bool = True) -> Data:
    """Train and test images ``[3, 64, 64]``; 15% of train, of each class in each domain, validate.

    Without a source, digits under four environments stand in, ``[3, 32, 32]``.
    """
    if source is None:
        return stand_in(augment)
    whole, test = list_images(source, NAMES, "label", columns=["domain"])
    cells = torch.from_numpy(whole.columns["domain"]) * len(NAMES) + whole.y
    train, validation = stratified(cells, VALIDATION, random_generator(0, "pacs", "validation"))
    parts = whole.take(train), whole.take(validation), test
    return image_data(SIDE, parts, halved if half else NORMALISE, augment)


def stratified(cells: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The rest, and a share held out of each cell: sample numbers in random order.

    A cell of two samples or more gives at least one and keeps at least one.

    >>> rest, held = stratified(torch.tensor([0] * 10 + [1] * 4), 0.25, torch.Generator())
    >>> len(rest), sorted((held >= 10).tolist())
    (11, [False, False, True])
    """
    order = torch.randperm(len(cells), generator=generator)
    held = torch.zeros(len(cells), dtype=torch.bool)
    for cell in cells.unique():
        samples = order[cells[order] == cell]
        count = min(max(round(share * len(samples)), 1), len(samples) - 1)
        held[samples[:count]] = True
    return order[~held[order]], order[held[order]]


def stand_in(augment: bool) -> Data:
    """Digits 0 to 6 as RGB images ``[3, 32, 32]``, a quarter of them in each environment."""
    prepare, crop = Normalise((0.323,) * 3, (0.325,) * 3), crop_and_flip if augment else None
    x, y = digits.large_images(len(NAMES))
    return environments(Data.of(x, y, **digits.SHARES, prepare=prepare, augment=crop))


def by_domain(data: Data) -> Partition:
    """One subset per domain, or per environment of the stand-in."""
    return by_environment(data) if _stands_in(data) else by_column(data, "domain", DOMAINS)


def class_names(data: Data) -> list[str]:
    """The names of the classes, for pictures."""
    return [*map(str, range(len(NAMES)))] if _stands_in(data) else NAMES


def title(data: Data) -> str:
    """What a picture is headed with."""
    return STAND_IN if _stands_in(data) else "PACS"


def _stands_in(data: Data) -> bool:
    return "environment" in data.train.columns


DATA = (
    "9,991 images of 64×64{}: --data FOLDER (Parquet: img, label, domain); "
    f"without it a stand-in, {STAND_IN.removeprefix('no PACS: ')}"
)
QUICK = preset_settings(1e-3, 4e-3, 64, **LATE_ONE_SHOT, rewind=120, steps=300)
PRESETS = {
    "quick": Preset(
        QUICK, "late rewinding to a shared dense start, private norm affines; eleven epochs a sparsity"
    ),
    "best": Preset(
        replace(QUICK, T=40, rewind=400, steps=1000),
        "three times the training of quick, on random crops and flips",
        augment=True,
    ),
}

PACS = Experiment(
    name="pacs",
    summary="PACS at 32×32, classification, one ticket per domain (K = 4), GhostNet",
    data=DATA.format(", halved to 32×32"),
    load=load,
    backbone=partial(GhostNet, len(NAMES)),  # 125,832 prunable weights
    partition=by_domain,
    objective=Classification(),
    presets=PRESETS,
    stand_in="digits under four environments",
    draw=DomainPictures("pacs", class_names, title),
)

PACS64 = replace(
    PACS,
    name="pacs64",
    summary="PACS at 64×64, as pacs and four times slower",
    data=DATA.format(""),
    load=partial(load, half=False),
)
