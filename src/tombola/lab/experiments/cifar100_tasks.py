"""CIFAR-100 as tasks of few classes, which arrive one by one: an output layer and a ticket each.

``cifar100_split`` has 10 tasks of 10 classes in the order of their numbers, ``cifar100_superclass`` the 20
superclasses of 5 classes: the field's sets for continual learning. Classes are numbered within their task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tombola._utils.errors import UsageError
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab.experiments import digits
from tombola.lab.experiments.cifar100 import NAMES, NORMALISE, SUPERCLASSES, VALIDATION, group_of
from tombola.lab.experiments.experiment import Experiment, Preset, preset_settings
from tombola.lab.experiments.images import decode, list_images, set_aside
from tombola.lab.experiments.tenants import HEADS, SPARSITIES
from tombola.lab.models.lenet import WIDE, LeNet
from tombola.objectives import Classification

STAND_IN = "digits-not-cifar100"


def within(split: Split, groups: Sequence[str]) -> Split:
    """Classes numbered within their group, which is the column ``task``.

    >>> whole = Split(torch.rand(3, 2), torch.tensor([0, 2, 3]))
    >>> made = within(whole, ["a", "b", "a", "b"])
    >>> made.y.tolist(), made.columns["task"].tolist()
    ([0, 1, 1], ['a', 'a', 'b'])
    """
    numbers = torch.tensor([groups[:c].count(group) for c, group in enumerate(groups)])
    return replace(split, y=numbers[split.y], columns={"task": np.array(groups)[split.y.numpy()]})


def load(source: str | None, augment: bool, by: str) -> Data | Mapping[str, Data]:
    """CIFAR-100 from a source of `list_images`; without one the digits in pairs, as an item."""
    if augment:
        raise UsageError("CIFAR-100 as tasks has no augmentation: budgets are compared without")
    if source is None:
        plain = Data.of(*digits.large_images(), **digits.SHARES)
        pairs = [f"digits {c - c % 2} and {c - c % 2 + 1}" for c in range(10)]
        return {STAND_IN: _tasks((plain.train, plain.validation, plain.test), pairs)}
    listed, test = list_images(source, NAMES, "fine_label")
    parts = decode(32, *set_aside(listed, VALIDATION, source, "cifar100"), test)
    tens = [f"classes {c - c % 10} to {c - c % 10 + 9}" for c in range(len(NAMES))]
    groups = tens if by == "tens" else group_of(NAMES, SUPERCLASSES)
    return _tasks(parts, groups)


def _tasks(parts: Sequence[Split], groups: Sequence[str]) -> Data:
    train, validation, test = (within(part, groups) for part in parts)
    return Data(train, validation, test, NORMALISE)


QUICK = preset_settings(
    1e-3, 1e-3, 64, sparsity=SPARSITIES, schedule="fraction:0.4", T=50, steps=100, private=HEADS
)
PRESETS = {
    "quick": Preset(QUICK, "about 8 epochs of a superclass; shows that everything works"),
    "best": Preset(replace(QUICK, T=100, steps=400), "20 epochs of a superclass, 10 of ten classes"),
}

CIFAR100_SPLIT = Experiment(
    name="cifar100_split",
    summary="CIFAR-100 in 10 tasks of 10 classes, an output layer each (K = 10), LeNet",
    data=(
        "60,000 images of 32×32: --data FOLDER (Parquet, or train/CLASS/*.png); without --data "
        f"scikit-learn's digits in pairs stand in, as the item {STAND_IN}"
    ),
    load=partial(load, by="tens"),
    backbone=partial(LeNet, 10, widths=WIDE),  # 1,426,500 prunable weights
    partition=partial(by_column, column="task"),
    objective=Classification(),
    presets=PRESETS,
    stand_in="digits in pairs",
)

CIFAR100_SUPERCLASS = replace(
    CIFAR100_SPLIT,
    name="cifar100_superclass",
    summary="CIFAR-100 in its 20 superclasses of 5 classes, an output layer each (K = 20), LeNet",
    load=partial(load, by="superclass"),
    backbone=partial(LeNet, 5, widths=WIDE),
)
