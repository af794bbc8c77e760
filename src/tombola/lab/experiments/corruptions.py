"""Classification under four environments, one ticket each: a camera that is askew, blurred or noisy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tombola._utils.errors import UsageError
from tombola.data.corruptions import ENVIRONMENTS, environments
from tombola.data.dataset import Data
from tombola.data.partition import by_column
from tombola.lab.experiments import cifar10, digits
from tombola.lab.experiments.experiment import LATE_ONE_SHOT, Experiment, Preset, preset_settings
from tombola.lab.experiments.pictures import DomainPictures
from tombola.objectives import Classification


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


by_environment = partial(by_column, column="environment", names={name: name for name in ENVIRONMENTS})

QUICK_DIGITS = preset_settings(
    3e-3, 6e-3, 32, schedule="fraction:0.4", T=20, rewind=20, steps=150, normalization="per_ticket"
)
CORRUPTIONS = Experiment(
    name="corruptions",
    summary=f"handwritten digits under {', '.join(ENVIRONMENTS)}, one ticket each (K = 4)",
    data="1,797 images of 8×8, inside scikit-learn",
    load=load_digits,
    backbone=digits.DIGITS.backbone,
    partition=by_environment,
    objective=Classification(),
    presets={"quick": Preset(QUICK_DIGITS, "all methods and controls in a few minutes")},
    draw=DomainPictures("corruptions", lambda _: [*"0123456789"], lambda _: "digits under environments"),
)

QUICK_CIFAR10 = preset_settings(1e-3, 6e-3, 160, **LATE_ONE_SHOT, rewind=60, steps=180)
CIFAR10_CORRUPTIONS = replace(
    CORRUPTIONS,
    name="cifar10_corruptions",
    summary=f"CIFAR-10 under {', '.join(ENVIRONMENTS)}, one ticket each (K = 4), GhostNet",
    data=cifar10.CIFAR10.data,
    load=load_cifar10,
    backbone=cifar10.CIFAR10.backbone,
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
        "cifar10-corruptions", lambda _: cifar10.NAMES, lambda _: "CIFAR-10 under environments"
    ),
)
