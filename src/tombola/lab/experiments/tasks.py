"""Several real image tasks on one network at 32×32, one ticket and one output layer each.

CIFAR-10, the superclasses of CIFAR-100, PACS without its domains, MNIST, and the digits of scikit-learn: a
sample belongs to one task, named in the column ``task``, and its class is numbered within it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data, Split, same
from tombola.data.images import Normalise
from tombola.data.partition import by_column
from tombola.lab.experiments import attributes, cifar10, digits, pacs
from tombola.lab.experiments.cifar100 import SUPERCLASSES
from tombola.lab.experiments.experiment import Experiment
from tombola.lab.experiments.images import decode, list_images, set_aside
from tombola.lab.models.lenet import LeNet
from tombola.objectives import Classification

TRAIN, TEST = 10_000, 2_000  # images of a task at most, so that none outnumbers the others by far
VALIDATION = 1_000
NORMALISE = Normalise((0.5,) * 3, (0.25,) * 3)
STAND_IN = "digits-not-several-tasks"


def halved(x: Tensor) -> Tensor:
    """uint8 images of 64×64 at 32×32: the mean of 2×2 pixels."""
    return avg_pool2d(x.float(), 2).round().to(torch.uint8)


def framed(x: Tensor) -> Tensor:
    """Images of 28×28 with a black frame of two pixels."""
    return pad(x, [2] * 4)


@dataclass(frozen=True)
class Task:
    """Images of a folder of that name, and how they come to 32×32."""

    names: Sequence[str]
    label: str = "label"
    side: int = 32
    fitted: Callable[[Tensor], Tensor] = same


TASKS = {
    "cifar10": Task(cifar10.NAMES),
    "cifar100": Task([*SUPERCLASSES], "coarse_label"),
    "pacs": Task(pacs.NAMES, side=64, fitted=halved),
    "mnist": Task(digits.NAMES, side=28, fitted=framed),
}


def load(source: str | None, augment: bool) -> Data | Mapping[str, Data]:
    """Images ``x`` uint8 ``[S, 3, 32, 32]`` of all tasks; ``source`` is the folder that holds theirs.

    Without a source the digits of scikit-learn stand in, under several questions, as an item.
    """
    if augment:
        raise UsageError("tasks has no augmentation: a flipped digit is another sign")
    if source is None:
        return {STAND_IN: attributes.stand_in("task")}
    folder = Path(source).expanduser().resolve()
    found = {name: _listed(task, str(folder / name), name) for name, task in TASKS.items()}
    small = Data.of(*digits.large_images(), **digits.SHARES)
    found["digits"] = small.train, small.validation, small.test
    train, validation, test = (_joined({name: parts[i] for name, parts in found.items()}) for i in range(3))
    return Data(train, validation, test, NORMALISE)


def _listed(task: Task, source: str, name: str) -> tuple[Split, Split, Split]:
    """Train, validation and test images of a task."""
    listed, test = list_images(source, task.names, task.label)
    rest, validation = set_aside(listed, VALIDATION, source, name)
    parts = decode(task.side, rest.first(TRAIN), validation, test.first(TEST))
    one, two, three = (replace(part, x=task.fitted(part.x)) for part in parts)
    return one, two, three


def _joined(parts: Mapping[str, Split]) -> Split:
    """The samples of all tasks in random order, so that either half of a split holds all tasks."""
    names = np.repeat([*parts], [len(part) for part in parts.values()])
    x, y = (torch.cat([getattr(part, name) for part in parts.values()]) for name in ("x", "y"))
    order = torch.randperm(len(y), generator=generator(0, "tasks"))
    return Split(x, y, {"task": names}).take(order)


TASKS_AT_ONCE = Experiment(
    name="tasks",
    summary="five image tasks at 32×32, one ticket each (K = 5), LeNet, an output layer each",
    data=(
        f"at most {TRAIN:,} images of a task to train on, {TEST:,} to test: --data FOLDER with the folders "
        f"{', '.join(TASKS)} (Parquet); without --data digits under several questions, as the item {STAND_IN}"
    ),
    load=load,
    backbone=partial(LeNet, len(SUPERCLASSES)),
    partition=partial(by_column, column="task"),
    objective=Classification("subset"),
    presets=attributes.PRESETS,
    stand_in="digits under several questions",
)
