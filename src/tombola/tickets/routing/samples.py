"""The samples that a router is fitted on: one context each. Shape letters: S samples, B batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola._utils.device import CPU
from tombola._utils.errors import RouterError
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.data.partition import Partition

BATCH = 64  # samples in memory at once: spectrograms are large


@dataclass(frozen=True)
class Samples:
    """Numbers of samples of a split ``[S]``, and the number of the ticket of each ``[S]``."""

    data: Data
    split: str
    index_S: Tensor
    where_S: Tensor

    def batches(self, device: torch.device = CPU) -> Iterator[Tensor]:
        """The network's inputs, in order."""
        for index in self.index_S.split(BATCH):
            yield self.data.inputs(self.split, index, device=device)

    def mixed(self, count: int, device: torch.device = CPU) -> Iterator[Tensor]:
        """At most so many batches of inputs in which the contexts come in a random order."""
        order = torch.randperm(len(self.index_S), generator=generator(0, "routing", "mixed"))
        for index in self.index_S[order].split(BATCH)[:count]:
            yield self.data.inputs(self.split, index, device=device)


def contexts(names: Sequence[str], data: Data, partition: Partition, split: str, limit: int) -> Samples:
    """Samples of a split that belong to one context alone, at most ``limit`` of each, drawn once and for all.

    Raises:
        RouterError: see `tombola.routing.Router.fit`.
    """
    if len(partition) < 2:
        raise RouterError(f"there is one context only ({partition.names[0]}): nothing to choose between")
    extra = [name for name in partition.names if name not in names]
    if extra:
        raise RouterError(
            f"{len(partition)} contexts for {len(names)} tickets: {', '.join(extra)} has no ticket; give a "
            "partition whose names are those of the tickets"
        )
    lacking = [name for name in names if name not in partition.names]
    if lacking:
        raise RouterError(
            f"ticket {', '.join(lacking)} has no context in the partition: no sample to know it by"
        )
    members_SK = partition.members[split][:, [partition.names.index(name) for name in names]]
    alone_S = members_SK.sum(1) == 1
    found = []
    for k, name in enumerate(names):
        mine = (alone_S & members_SK[:, k]).nonzero()[:, 0]
        if len(mine) < 2:
            raise RouterError(
                f"context {name!r} has {len(mine)} {split} samples that belong to it alone: a router needs "
                "two at least"
            )
        order = torch.randperm(len(mine), generator=generator(0, "routing", split, name))
        found.append(mine[order[:limit]].sort().values)
    where = [torch.full((len(mine),), k) for k, mine in enumerate(found)]
    return Samples(data, split, torch.cat(found), torch.cat(where))
