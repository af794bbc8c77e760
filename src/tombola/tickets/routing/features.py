"""Samples of one context each and their shallow features, which every router reads before it decides.

Shape letters: S training samples, H held-out samples, B batch, K tickets, P prototypes of each, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tombola._utils.batch import Batch
from tombola._utils.device import CPU, device_of
from tombola._utils.errors import RouterError
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.tickets.fitted import Tickets
from tombola.tickets.routing.shallow import Shallow

BATCH = 64  # samples in memory at once: spectrograms are large


@dataclass(frozen=True)
class Samples:
    """Numbers of samples of a split, and the number of the ticket of each, both ``[S]``."""

    data: Data
    split: str
    index_S: Tensor
    where_S: Tensor

    def batches(self, device: torch.device = CPU) -> Iterator[Batch]:
        """The network's inputs, in order."""
        return self.data.batches(self.split, self.index_S.split(BATCH), device)

    def mixed(self, count: int, device: torch.device = CPU) -> Iterator[Batch]:
        """At most so many batches of inputs in which the contexts come in a random order."""
        order = torch.randperm(len(self.index_S), generator=generator(0, "routing", "mixed"))
        return self.data.batches(self.split, self.index_S[order].split(BATCH)[:count], device)


def contexts(names: Sequence[str], data: Data, partition: Partition, split: str, limit: int) -> Samples:
    """Samples of a split that belong to one context alone, at most ``limit`` of each, always the same."""
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
    mine = [(alone_S & members_SK[:, k]).nonzero()[:, 0] for k in range(len(names))]
    found = [_some(mine_S, split, name, limit) for mine_S, name in zip(mine, names, strict=True)]
    where = [torch.full((len(mine),), k) for k, mine in enumerate(found)]
    return Samples(data, split, torch.cat(found), torch.cat(where))


def of_one(name: str, data: Data, split: str, limit: int) -> Samples:
    """The same of data that all belong to one context."""
    index_S = _some(torch.arange(len(data.split(split))), split, name, limit)
    return Samples(data, split, index_S, torch.zeros_like(index_S))


def _some(mine_S: Tensor, split: str, name: str, limit: int) -> Tensor:
    if len(mine_S) < 2:
        raise RouterError(
            f"context {name!r} has {len(mine_S)} {split} samples that belong to it alone: a router needs "
            "two at least"
        )
    order = torch.randperm(len(mine_S), generator=generator(0, "routing", split, name))
    return mine_S[order[:limit]].sort().values


@dataclass(frozen=True)
class RouterFeatures:
    """Samples that a router is fitted on (``held``: of validation data), and their features."""

    train: Samples
    held: Samples
    shallow: Shallow
    features_SD: Tensor
    features_HD: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        tickets: Tickets,
        data: Data,
        partition: Partition,
        depth: int = 0,
        bands: int = 1,
        limit: int = 1000,
    ) -> Self:
        """Read samples of these tickets, in evaluation mode (options of `tombola.routing.Router`)."""
        train, held = (
            contexts(tickets.names, data, partition, split, limit) for split in ("train", "validation")
        )
        shallow = Shallow.of(tickets, train, depth, bands)
        device = device_of(tickets.backbone)
        features = [torch.cat([shallow(tickets, x) for x in s.batches(device)]) for s in (train, held)]
        return cls(train, held, shallow, features[0], features[1])

    def held_batches(self, device: torch.device = CPU) -> Iterator[tuple[Batch, Tensor]]:
        """Inputs and features of the validation samples."""
        yield from zip(self.held.batches(device), self.features_HD.split(BATCH), strict=True)


# What routers share: by the hash of the tickets, and depth, bands and limit of `tombola.routing.Router`.
FeatureCache = dict[tuple[str, int, int, int], RouterFeatures]


@dataclass(frozen=True)
class Gaussians:
    """Contexts as Gaussians: whitened means ``[K, P, D]``; features times ``whiten_DD`` have covariance one.

    The covariance is that of features around the nearest mean of their own context, shrunk towards a multiple
    of the identity (Ledoit and Wolf, 2004) after each feature was scaled to deviation 1.
    """

    means_KPD: Tensor
    whiten_DD: Tensor

    @classmethod
    def of(cls, features_SD: Tensor, where_S: Tensor, tickets: int, prototypes: int = 1) -> Self:
        """From finite features ``[S, D]`` and the number of each sample's ticket ``[S]``."""
        from sklearn.covariance import LedoitWolf  # a second to import; ticket files are read without

        x = features_SD.detach().double().cpu()
        if not bool(torch.isfinite(x).all()):
            raise RouterError("features of the shallow layers are not finite: the tickets are broken")
        parts = [x[where_S == k] for k in range(tickets)]
        spread = (x - torch.stack([part.mean(0) for part in parts])[where_S]).std(0)
        spread = torch.where(spread > 1e-6 * spread.max().clamp(min=1e-30), spread, torch.ones_like(spread))
        means = [centres(part / spread, prototypes) for part in parts]
        nearest = [m[torch.cdist(p / spread, m).argmin(1)] for p, m in zip(parts, means, strict=True)]
        centred = torch.cat(parts) / spread - torch.cat(nearest)
        shrunk = LedoitWolf(assume_centered=True).fit(centred.numpy()).covariance_
        values, vectors = torch.linalg.eigh(torch.from_numpy(shrunk))
        turn = vectors * values.clamp(min=1e-8).rsqrt()
        return cls((torch.stack(means) @ turn).float(), (turn / spread[:, None]).float())

    def __call__(self, features_BD: Tensor) -> Tensor:
        """Squared Mahalanobis distances to the nearest prototype of each ticket, ``[B, K]``."""
        white_BD = features_BD.float() @ self.whiten_DD.to(features_BD.device)
        means_KPD = self.means_KPD.to(features_BD.device)
        apart_BKPD = white_BD[:, None, None] - means_KPD
        return apart_BKPD.square().sum(-1).min(-1).values


def centres(z_SD: Tensor, prototypes: int) -> Tensor:
    """The mean, or the centres of k-means, ``[P, D]``."""
    if len(z_SD) < prototypes:
        raise RouterError(f"{prototypes} prototypes of {len(z_SD)} samples: ask for fewer")
    if prototypes == 1:
        return z_SD.mean(0, keepdim=True)
    from sklearn.cluster import KMeans

    found = KMeans(prototypes, n_init=4, random_state=0).fit(z_SD.numpy())
    return torch.from_numpy(found.cluster_centers_)
