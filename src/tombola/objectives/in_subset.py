"""Tasks in which the context is given and is not the answer: what the subsets have in common.

Shape letters: S samples of a split, B batch, K subsets (tickets), C outputs of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from tombola.data.partition import Partition
from tombola.objectives.objective import Metric, Objective, Predict


class InSubset(Objective):
    """Ticket k is trained and judged on its own subset; an epoch of it is that subset once.

    One network for all subsets (`single`) is trained on all their samples, and judged on each of them.
    ``original`` is the partition that it is judged on, None for tickets.
    """

    original: Partition | None = None

    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:
        """The subset in a new order."""
        samples = partition.members["train"][:, k].nonzero()[:, 0]
        return samples[torch.randperm(len(samples), generator=generator)]

    def epoch_size(self, partition: Partition, k: int) -> int:
        """The size of the subset."""
        return int(partition.members["train"][:, k].sum())

    def single(self, partition: Partition) -> Self:
        """The same task for one network, trained on the samples of all subsets."""
        pooled = copy.copy(self)
        pooled.original = partition
        return pooled

    def by_subset(self, predict: Predict, partition: Partition) -> Iterator[tuple[int, str, Tensor, Tensor]]:
        """Number, name, test samples ``[B]`` and outputs ``[B, ...]`` of each subset.

        The outputs are those of the subset's ticket, or of the one network.
        """
        judged = self.original or partition
        for k, name in enumerate(judged.names):
            index = judged.members["test"][:, k].nonzero()[:, 0]
            yield k, name, index, predict("test", 0 if self.original else k, index)


def mean_and_each(name: str, values: dict[str, float], reading: str = "") -> list[Metric]:
    """A metric per ticket after their mean: every subset counts alike, whatever its size."""
    mean = sum(values.values()) / len(values)
    return [Metric(name, mean, reading), *(Metric(name, v, reading, ticket) for ticket, v in values.items())]
