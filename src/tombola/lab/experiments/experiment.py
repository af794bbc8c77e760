"""What an experiment is: data, backbone, partition, objective, presets, and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola._utils.errors import UsageError, unknown
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.methods.table import STANDARD
from tombola.objectives import Objective
from tombola.settings import Settings, TrainConfig
from tombola.tickets.model import TicketModel, load

# Three nested rounds of ten steps from a shared dense start, with norm affines of each ticket.
LATE_ONE_SHOT = {"schedule": "one_shot", "T": 10, "normalization": "per_ticket"}

# Masks of a tenth of the change of a pretrained network, which go on from what the search has trained.
OF_THE_CHANGE: dict[str, Any] = {
    "sparsity": (0.9,),
    "schedule": "one_shot",
    "normalization": "per_ticket",
    "reference": "theta0",
    "rewinding": "learning_rate",  # what a search has trained is worth keeping where steps are few
}


@dataclass(frozen=True)
class Preset:
    """Settings, whether images are augmented, and what to expect."""

    settings: Settings
    summary: str
    augment: bool = False


def preset_settings(search: float, train: float, batch_size: int, **others: Any) -> Settings:
    """Settings from the learning rates of search (constant) and training (cosine), and one batch size."""
    return Settings(
        search=TrainConfig(lr=search, batch_size=batch_size),
        train=TrainConfig(lr=train, batch_size=batch_size, lr_schedule="cosine"),
        **others,
    )


def constant_settings(lr: float, batch_size: int, **others: Any) -> Settings:
    """Settings of the paper's kind: one constant learning rate and batch size for search and training."""
    config = TrainConfig(lr=lr, batch_size=batch_size)
    return Settings(search=config, train=config, **others)


def figures(metrics: str, **rows: Sequence[tuple[float, ...]]) -> dict[tuple[str, float], dict[str, float]]:
    """The paper's figures of each method, a row for each sparsity of 0.25, 0.5 and 0.75.

    >>> figures("psnr union", rtl=[(18.86, 48e3), (17.25, 36.5e3), (14.87, 22e3)])["rtl", 0.5]
    {'psnr': 17.25, 'union': 36500.0}
    """
    return {
        (method, sparsity): dict(zip(metrics.split(), row, strict=True))
        for method, found in rows.items()
        for sparsity, row in zip((0.25, 0.5, 0.75), found, strict=True)
    }


@dataclass(frozen=True)
class Finished:
    """A finished run as a picture needs it: directory, item, seed, data, and the experiment that it is of."""

    path: Path
    item: str
    seed: int
    data: Data
    experiment: Experiment

    def tickets(self, method: str, sparsity: float, backbone: nn.Module) -> TicketModel:
        """The tickets of one outcome; an error names the file that is missing."""
        return load(self.path / "tickets" / f"{method}-{sparsity}.tickets", backbone)

    def sparsities(self, method: str) -> list[float]:
        """Sparsities at which the run has finished tickets of a method."""
        files = (self.path / "tickets").glob(f"{method}-*.tickets")
        return sorted(float(file.stem.removeprefix(f"{method}-")) for file in files)


@dataclass(frozen=True)
class Experiment:
    """Everything that `tombola run` needs."""

    name: str  # as on the command line
    summary: str  # one line
    data: str  # what the data is, where it comes from and how large it is
    # from a source (a directory, a name, or None for what ships inside a dependency) to the data; where
    # every item (photograph) has a network of its own, a mapping from their names
    load: Callable[[str | None, bool], Data | Mapping[str, Data]]
    backbone: Callable[[torch.Generator], nn.Module]  # the dense network, initialised by the generator
    partition: Callable[[Data], Partition]  # the subsets
    objective: Objective  # the task
    presets: Mapping[str, Preset]  # by name; the first is the default
    # the paper's figures, ``(method, sparsity)`` to metric to value
    paper: Mapping[tuple[str, float], Mapping[str, float]] = field(default_factory=dict)
    stand_in: str = ""  # what takes the place of the data where no source is given, if it is something else
    # pictures and sounds from finished runs into a folder; returns the files
    draw: Callable[[Sequence[Finished], Path], list[Path]] | None = None
    usual: tuple[str, ...] = ()  # the methods that run where none is named; all that make sense if empty
    options: Mapping[str, Any] | None = None  # of one that was made of options, as a run's config holds them
    told: bool = True  # whether the network can be given the number of the context beside its inputs

    def methods(self) -> list[str]:
        """The standard methods that make sense here: none is told the context where that is the answer."""
        if self.usual:
            return [*self.usual]
        told_too = self.told and not self.objective.context_is_answer
        return [name for name, method in STANDARD.items() if told_too or not method.conditioned]

    def preset(self, name: str | None) -> tuple[str, Preset]:
        """A preset by its name, the first by default."""
        name = name or next(iter(self.presets))
        if name not in self.presets:
            raise UsageError(unknown("preset", name, self.presets))
        return name, self.presets[name]
