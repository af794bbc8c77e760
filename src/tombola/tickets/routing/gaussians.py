"""Contexts as Gaussians with one covariance: class means and Mahalanobis distances.

Shape letters: S samples, B batch, K tickets, P prototypes of each, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from torch import Tensor

from tombola._utils.errors import RouterError


@dataclass(frozen=True)
class Gaussians:
    """Means of each ticket's features, and what makes their common covariance the identity.

    The covariance is that of features around the nearest mean of their own context, shrunk towards a multiple
    of the identity (Ledoit and Wolf, 2004) after each feature was scaled to deviation 1.

    Attributes:
        means_KPD: whitened means, float ``[K, P, D]``.
        whiten_DD: features times this have covariance one, ``[D, D]``.

    >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> where = torch.arange(200) % 2
    >>> x[where == 1, 0] += 9
    >>> distances_BK = Gaussians.of(x, where, tickets=2)(torch.tensor([[0.0, 0, 0], [9.0, 0, 0]]))
    >>> distances_BK.argmin(1).tolist()
    [0, 1]
    """

    means_KPD: Tensor
    whiten_DD: Tensor

    @classmethod
    def of(cls, features_SD: Tensor, where_S: Tensor, tickets: int, prototypes: int = 1) -> Self:
        """From features ``[S, D]`` and the number of each sample's ticket ``[S]``.

        Raises:
            RouterError: features that are not finite, or fewer samples of a ticket than prototypes.
        """
        x = features_SD.detach().double().cpu()
        if not bool(torch.isfinite(x).all()):
            raise RouterError("features of the shallow layers are not finite: the tickets are broken")
        parts = [x[where_S == k] for k in range(tickets)]
        few = min(len(part) for part in parts)
        if few < prototypes:
            raise RouterError(f"{prototypes} prototypes of {few} samples: ask for fewer")
        spread = (x - torch.stack([part.mean(0) for part in parts])[where_S]).std(0)
        spread = torch.where(spread > 1e-6 * spread.max().clamp(min=1e-30), spread, torch.ones_like(spread))
        means = [_centres(part / spread, prototypes) for part in parts]
        centred = torch.cat(
            [p / spread - m[_nearest(p / spread, m)] for p, m in zip(parts, means, strict=True)]
        )
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

    def tensors(self) -> dict[str, Tensor]:
        """What is kept in the ticket file."""
        return {"means_KPD": self.means_KPD, "whiten_DD": self.whiten_DD}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(tensors["means_KPD"], tensors["whiten_DD"])


def _centres(z_SD: Tensor, prototypes: int) -> Tensor:
    """The mean, or the centres of k-means, ``[P, D]``."""
    if prototypes == 1:
        return z_SD.mean(0, keepdim=True)
    found = KMeans(prototypes, n_init=4, random_state=0).fit(z_SD.numpy())
    return torch.from_numpy(found.cluster_centers_)


def _nearest(z_SD: Tensor, means_PD: Tensor) -> Tensor:
    return torch.cdist(z_SD, means_PD).argmin(1)
