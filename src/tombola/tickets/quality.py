"""The metrics of a network, or of one ticket, on data that are all its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.objectives import Objective

ROWS = 500  # samples that go through a network at once


def whole(data: Data, name: str) -> Partition:
    """One subset that holds all data."""
    everything = {split: torch.ones(len(data.split(split)), 1, dtype=torch.bool) for split in SPLITS}
    return Partition((name,), everything)


@torch.no_grad()
def quality(
    outputs: Callable[[Any], Tensor],
    name: str,
    data: Data,
    objective: Objective,
    device: torch.device,
    split: str = "test",
) -> dict[str, float]:
    """The metrics of an objective on a split, the first one first.

    Args:
        outputs: of a batch.
        name: of the ticket or task.
        data: all its own.
        objective: says how outputs are read and judged.
        device: where batches go.
        split: of the data.

    >>> x = torch.randn(90, 2)
    >>> data = Data.of(x, (x[:, 0] > 0).long())
    >>> from tombola.objectives import Classification
    >>> quality(lambda x: torch.stack([-x[:, 0], x[:, 0]], 1), "a", data, Classification(), x.device)
    {'accuracy': 1.0}
    """
    if split != "test":
        data = replace(data, test=data.split(split))
    partition = whole(data, name)

    def predict(split: str, k: int, index: Tensor | None = None) -> Tensor:  # noqa: ARG001
        samples = torch.arange(len(data.split(split))) if index is None else index
        batches = data.batches(split, samples.split(ROWS), device)
        return torch.cat([objective.read(outputs(x)).cpu() for x in batches])

    found = objective.of(data, partition).evaluate(predict, data, partition)
    return {metric.name: metric.value for metric in found if not metric.ticket}
