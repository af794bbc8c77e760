"""What an experiment is: data, backbone, partition, objective, presets, and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from tombola.data import Data
from tombola.errors import UsageError, unknown
from tombola.objectives import Objective
from tombola.partition import Partition
from tombola.settings import Settings


@dataclass(frozen=True)
class Preset:
    """Settings, whether images are augmented, and what to expect."""

    settings: Settings
    summary: str
    augment: bool = False


@dataclass(frozen=True)
class Experiment:
    """Everything that `tombola run` needs.

    Attributes:
        name: as on the command line.
        summary: one line.
        data: what the data is, where it comes from and how large it is.
        load: from a source (a directory, a name, or None for the default) to the data.
        backbone: the dense network, initialised by the generator.
        partition: the subsets.
        objective: the task.
        presets: by name; the first is the default.
        paper: the paper's figures, ``(method, sparsity)`` to metric to value.
    """

    name: str
    summary: str
    data: str
    load: Callable[[str | None, bool], Data]
    backbone: Callable[[torch.Generator], nn.Module]
    partition: Callable[[Data], Partition]
    objective: Objective
    presets: Mapping[str, Preset]
    paper: Mapping[tuple[str, float], Mapping[str, float]] = field(default_factory=dict)

    def preset(self, name: str | None) -> tuple[str, Preset]:
        """A preset by its name, the first by default."""
        name = name or next(iter(self.presets))
        if name not in self.presets:
            raise UsageError(unknown(f"preset of {self.name}", name, self.presets))
        return name, self.presets[name]
