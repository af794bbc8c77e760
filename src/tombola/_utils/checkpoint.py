"""The checkpoint of a long computation: progress, measured rows, and states to go on from.

Algorithms take a `Checkpoint` and know nothing of files. This one keeps all in memory; `tombola.runs` has
the one that writes a run directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and small facts that JSON can hold


@dataclass
class Checkpoint:
    """A stage in memory: rows are collected, states are dropped."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def record(self, **row: Any) -> None:
        """Keep one measured thing."""
        self.rows.append(row)

    def load(self) -> State | None:
        """The state to go on from, if this stage was interrupted."""
        return None

    def save(self, tensors: Callable[[], dict[str, Tensor]], metadata: dict[str, Any]) -> None:
        """Offer a state from which the rest of the stage gives the same bytes; most are not wanted.

        Called for its tensors at once or not at all: packing them may cost more than the step before.
        """

    def advance(self, done: int, total: int) -> None:
        """Tell how far the stage is."""


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, under the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
