"""What every router reads before it decides: read once for all that read the same.

Shape letters: S training samples, H held-out samples, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from tombola._utils.device import CPU, device_of
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.tickets.routing.samples import BATCH, Samples, contexts
from tombola.tickets.routing.shallow import Shallow

if TYPE_CHECKING:
    from tombola.tickets.routing.router import Tickets

Key = tuple[str, int, int, int]  # hash of the tickets; depth, bands and limit of `tombola.routing.Router`


@dataclass(frozen=True)
class Looked:
    """The samples that a router is fitted on, and their shallow features.

    Attributes:
        train: training samples, of one context each.
        held: validation samples.
        shallow: how features are made.
        features_SD: of the training samples, float ``[S, D]``.
        features_HD: of the validation samples, float ``[H, D]``.
    """

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
        """Read training and validation samples of these tickets; options as in `tombola.routing.Router`.

        The network has to be in evaluation mode.

        Raises:
            RouterError: as `tombola.routing.Router.fit`.
        """
        train, held = (
            contexts(tickets.names, data, partition, split, limit) for split in ("train", "validation")
        )
        shallow = Shallow.of(tickets, train, depth, bands)
        device = device_of(tickets.backbone)
        features = [torch.cat([shallow(tickets, x) for x in s.batches(device)]) for s in (train, held)]
        return cls(train, held, shallow, features[0], features[1])

    def held_batches(self, device: torch.device = CPU) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and features of the validation samples, batch by batch."""
        yield from zip(self.held.batches(device), self.features_HD.split(BATCH), strict=True)


RouterFeatures = dict[Key, Looked]
