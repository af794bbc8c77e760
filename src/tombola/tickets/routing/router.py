"""The interface of a router: what chooses the ticket where no context is given.

Shape letters: S samples that it is fitted on, B batch, K tickets, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.batch import Batch
from tombola._utils.device import device_of
from tombola._utils.errors import RouterError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.tickets.fitted import State, Tickets, answer_of, fingerprint_of
from tombola.tickets.passes import evaluating
from tombola.tickets.routing.features import BATCH, FeatureCache, Gaussians, RouterFeatures
from tombola.tickets.routing.routed import Routed
from tombola.tickets.routing.shallow import Shallow

QUANTILES = 101  # of the distances of known samples, kept to say how unusual an input is


class Router(ABC):
    """Chooses a ticket for each sample from the sample alone.

    A router is data: small tensors and facts, kept in the ticket file. Every router that is fitted also looks
    at the features of the shallow layers (`Shallow`), so that it can tell how familiar an input is; what it
    decides by is its own (`raw_BK`).

    Args:
        mix: 1, or 2: the outputs of the two likeliest tickets are mixed by their posteriors.
        depth: how many layers count as shallow; by default a third of them.
        bands: into how many parts the last axis is cut before features are pooled over it: 1 for images,
            where it is a place, several for spectrograms, where it is a frequency; no more than it is long.
        limit: at most so many samples of each context are read to fit it.

    Attributes:
        kind: its name, as on the command line and in the ticket file.
        needs_fit: whether `fit` has to be called before it can be used; if not, it learns nothing.
        deciding: names of the tensors that it decides by; others say how familiar an input is.
        made_for: the hash of the tickets that it was fitted on (`fingerprint_of`); None if it is for any.
    """

    kind: ClassVar[str]
    needs_fit: ClassVar[bool] = True
    deciding: ClassVar[tuple[str, ...]] = ("means_KPD", "whiten_DD")

    def __init__(self, *, mix: int = 1, depth: int = 0, bands: int = 1, limit: int = 1000) -> None:
        for name, value, least in (("depth", depth, 0), ("bands", bands, 1), ("limit", limit, 2)):
            if value < least:
                raise RouterError(f"{name} of a router must be at least {least}: got {value}")
        if mix not in (1, 2):
            raise RouterError(f"mix is 1 (the likeliest ticket) or 2 (the two likeliest): got {mix}")
        self.options: dict[str, Any] = {"mix": mix, "depth": depth, "bands": bands, "limit": limit}
        self.names: tuple[str, ...] = ()
        self.tensors: dict[str, Tensor] = {}
        self.shallow: Shallow | None = None
        self.made_for: str | None = None

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        fitted = f", for {', '.join(self.names)}" if self.names else ""
        return f"{type(self).__name__}({options}{fitted})"

    # -- fitting ----------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(
        self, tickets: Tickets, data: Data, partition: Partition, looked: FeatureCache | None = None
    ) -> Self:
        """Learn the contexts of ``partition`` from training data, and confidence from validation data.

        ``looked`` is shared by routers that are fitted with the same data: what one of them has read of the
        same tickets is not read again by the next.

        Raises:
            RouterError: one-vs-rest tickets that are to be mixed, one context only, contexts that are no
                tickets, tickets without a context, or a context with fewer than two samples of its own.
        """
        if not self.needs_fit:
            return self
        if self.options["mix"] > 1 and answer_of(tickets) == "subset":
            raise RouterError(
                "one-vs-rest tickets are read at one output each, so outputs of two cannot be mixed: mix=1"
            )
        self.names, self.made_for = tuple(tickets.names), fingerprint_of(tickets)
        looked = {} if looked is None else looked
        options = (self.options["depth"], self.options["bands"], self.options["limit"])
        with evaluating():
            if (key := (self.made_for, *options)) not in looked:
                looked[key] = RouterFeatures.of(tickets, data, partition, *options)
            found = looked[key]
            self.shallow, where_S = found.shallow, found.train.where_S
            gaussians = Gaussians.of(found.features_SD, where_S, len(self.names), self._prototypes())
            self.tensors = dict(vars(gaussians))
            raw_HK = self._fit(tickets, found)
            if raw_HK is None:
                batches = found.held_batches(device_of(tickets.backbone))
                raw_HK = torch.cat([self.raw_BK(tickets, x, z, gaussians(z)).float() for x, z in batches])
        self.tensors["scale"] = torch.tensor(_scale(raw_HK, found.held.where_S))
        distance_H = torch.cat([gaussians(z).min(1).values for z in found.features_HD.split(BATCH)])
        self.tensors["distances"] = quantiles(distance_H)
        return self

    def extended(self, tickets: Tickets, data: Data) -> Self | None:  # noqa: ARG002
        """A router for ``tickets``, the last of which was grown on ``data``; None: it needs those of all.

        Raises:
            RouterError: the data are too few.
        """
        return None

    def without(self, left: Tickets, name: str) -> Self | None:  # noqa: ARG002
        """A router for ``left``, which are all tickets but this one; None: its data are in all numbers."""
        return None

    def _prototypes(self) -> int:
        return 1

    def _fit(self, tickets: Tickets, found: RouterFeatures) -> Tensor | None:  # noqa: ARG002
        """Learn what else the decision needs; returns `raw_BK` of the held-out samples if that read it."""
        return None

    # -- use --------------------------------------------------------------------------------------

    @abstractmethod
    def raw_BK(self, tickets: Tickets, x: Batch, features_BD: Tensor, distances_BK: Tensor) -> Tensor:
        """Scores ``[B, K]`` of any scale, high = this ticket; distances are squared Mahalanobis ones."""

    @torch.no_grad()
    def _look(self, tickets: Tickets, x: Batch) -> tuple[Tensor, Tensor]:
        assert self.shallow is not None
        features_BD = self.shallow(tickets, x)
        distances_BK = Gaussians(self.tensors["means_KPD"], self.tensors["whiten_DD"])(features_BD)
        raw = self.raw_BK(tickets, x, features_BD, distances_BK)  # all that follows is on the CPU
        return raw.float(), distances_BK.min(1).values

    def route(self, tickets: Tickets, x: Batch, context: Any = None) -> Routed:
        """The likeliest ticket of each sample, with confidence.

        Raises:
            RouterError: the router was not fitted, or on tickets of other names, or a context was given that
                it cannot use.
        """
        if context is not None:
            raise RouterError(
                f"the {self.kind} router takes no context: leave it out, or set a ContextRouter"
            )
        if self.shallow is None:
            raise RouterError(f"the {self.kind} router was not fitted: call fit(tickets, data, partition)")
        if tuple(tickets.names) != self.names:
            raise RouterError(
                f"the router knows {', '.join(self.names)}, not {', '.join(tickets.names)}: fit it"
            )
        with evaluating():
            raw_BK, distance_B = self._look(tickets, x)
        strange_B = ~(raw_BK.isfinite().all(1) & distance_B.isfinite())  # NaN or infinity in: nobody's sample
        raw_BK[strange_B], distance_B[strange_B] = 0.0, torch.inf
        scores_BK = raw_BK * self.tensors["scale"].to(raw_BK)
        return Routed(self.names, scores_BK.log_softmax(1), self._familiarity(distance_B), self.kind)

    def scores_BK(self, tickets: Tickets, x: Batch) -> Tensor:
        """Log-posteriors of the tickets ``[B, K]``."""
        return self.route(tickets, x).scores_BK

    def _familiarity(self, distance_B: Tensor) -> Tensor:
        """Share of held-out known samples that were at least as far from every context, ``[B]``."""
        known = self.tensors["distances"].to(distance_B).contiguous()
        nearer = torch.searchsorted(known, distance_B.contiguous())
        return 1 - nearer.clamp(max=QUANTILES - 1).to(distance_B) / (QUANTILES - 1)

    # -- counts and the file ----------------------------------------------------------------------

    def numbers(self) -> int:
        """Numbers that decide; see `stored` for all that are kept."""
        return sum(t.numel() for name, t in self.tensors.items() if name in self.deciding)

    def stored(self) -> int:
        """All numbers that the router adds to the ticket file."""
        return sum(t.numel() for t in self.state()[1].values())

    def state(self) -> State:
        """Facts and tensors from which `restored` makes the same router."""
        metadata = {
            "kind": self.kind,
            "options": self.options,
            "names": list(self.names),
            "made_for": self.made_for,
        }
        if self.shallow is None:
            return metadata, dict(self.tensors)
        more, statistics = self.shallow.state()
        return {**metadata, "shallow": more}, {**self.tensors, **statistics}

    @classmethod
    def restored(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `state`."""
        router = cls(**metadata["options"])
        router.names = tuple(metadata["names"])
        if "shallow" in metadata:
            router.shallow = Shallow.restored(metadata["shallow"], tensors)
        router.made_for = metadata["made_for"]
        router.tensors = {name: t for name, t in tensors.items() if name != "statistics"}
        return router


def quantiles(distance_S: Tensor) -> Tensor:
    """Quantiles of distances, evenly spaced."""
    return distance_S.double().quantile(torch.linspace(0, 1, QUANTILES, dtype=torch.double)).float()


def _scale(raw_SK: Tensor, where_S: Tensor) -> float:
    """The factor of the scores with the highest likelihood of the true contexts."""
    raw, where = raw_SK.double().cpu(), where_S.cpu()
    spread = float((raw - raw.mean(1, keepdim=True)).std().clamp(min=1e-12))

    def loss(log_factor: float) -> float:
        return float(F.cross_entropy(raw * (np.exp(log_factor) / spread), where))

    found = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x) / spread)
