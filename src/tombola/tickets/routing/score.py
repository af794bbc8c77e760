"""Every ticket answers, and the answers say who is at home. Shape letters: S samples, B batch, K tickets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.batch import Batch
from tombola._utils.device import device_of
from tombola._utils.errors import RouterError, unknown
from tombola.objectives.classification import allowed, mask_logits
from tombola.tickets.fitted import Tickets, minimised, read, router_score_of
from tombola.tickets.routing.features import RouterFeatures
from tombola.tickets.routing.router import Router

READINGS = ("energy", "max_logit", "own_output", "consistency")


class ScoreRouter(Router):
    """K passes; the score of ticket k is ``a_k s_k + b_k`` of what is read off its outputs.

    What is read, by the objective of the tickets (`Objective.router_score`):

    - ``energy``, the log-sum-exp of the logits (Liu et al., arXiv 2010.03759), or ``max_logit``, for
      classes within a context. Entropy is not offered: tickets are sure of themselves away from home.
    - ``own_output``: output k of ticket k, for one-vs-rest tickets, whose other outputs mean nothing.
    - ``consistency``, for outputs like the input (speech): minus the logarithm of
      ``|f_k(f_k(x)) − f_k(x)|² / |f_k(x)|²``. What has been cleaned of a scene's noise holds none of it, so
      the ticket of that scene should leave it alone. 2K passes.

    Coordinates have no such reading: every ticket paints a colour everywhere, and none is less sure than
    another. There the coordinates themselves route (`PrototypeRouter`, `GateRouter`, `ContextRouter`).

    The 2K numbers a and b are fitted on validation data by multinomial logistic regression: tickets are surer
    of their training data than of anything else.
    """

    kind = "score"
    deciding = ("a_K", "b_K")

    def __init__(self, *, reading: str = "", **options: int) -> None:
        super().__init__(**options)
        if reading and reading not in READINGS:
            raise RouterError(unknown("reading of the score router", reading, READINGS))
        self.options["reading"] = reading

    def _fit(self, tickets: Tickets, found: RouterFeatures) -> Tensor:
        if not self.options["reading"]:
            self.options["reading"] = router_score_of(tickets)
        if self.options["reading"] not in READINGS:
            raise RouterError(
                f"what the outputs of {tickets.metadata.get('objective', 'these')} tickets say of their "
                f"context is not known: pass reading= one of {', '.join(READINGS)}, or take another router"
            )
        batches = found.held.batches(device_of(tickets.backbone))
        read_HK = torch.cat([self._read_BK(tickets, x) for x in batches])
        self.tensors["a_K"], self.tensors["b_K"] = _affine(read_HK, found.held.where_S)
        return self._calibrated(read_HK)

    def raw_BK(self, tickets: Tickets, x: Batch, features_BD: Tensor, distances_BK: Tensor) -> Tensor:  # noqa: ARG002
        """Calibrated readings of all tickets."""
        return self._calibrated(self._read_BK(tickets, x))

    def _calibrated(self, read_BK: Tensor) -> Tensor:
        return read_BK * self.tensors["a_K"].to(read_BK) + self.tensors["b_K"].to(read_BK)

    def _read_BK(self, tickets: Tickets, x: Batch) -> Tensor:
        reading = self.options["reading"]
        columns = [_read(reading, tickets, name, k, x) for k, name in enumerate(tickets.names)]
        return torch.stack(columns, 1).float().cpu()


def _read(reading: str, tickets: Tickets, name: str, k: int, x: Batch) -> Tensor:
    outputs = read(tickets, tickets(x, ticket=name))
    if reading == "consistency":
        if not isinstance(x, Tensor) or outputs.shape != x.shape:
            raise RouterError("consistency needs outputs like the inputs: take another reading or router")
        again = read(tickets, tickets(outputs, ticket=name))
        apart, size = (again - outputs).flatten(1).square().sum(1), outputs.flatten(1).square().sum(1)
        return -(apart.clamp(min=1e-12) / size.clamp(min=1e-12)).log()
    if outputs.ndim != 2:
        raise RouterError(f"{reading} needs outputs [batch, classes]: take another reading or router")
    if reading == "own_output":
        return outputs[:, k]
    if (own_BC := allowed(tickets.metadata, [name] * len(outputs))) is not None:
        outputs = mask_logits(outputs, own_BC)
    return outputs.logsumexp(1) if reading == "energy" else outputs.max(1).values


def _affine(read_SK: Tensor, where_S: Tensor) -> tuple[Tensor, Tensor]:
    s = read_SK.double().detach().cpu()
    mean_K, std_K = s.mean(0), s.std(0).clamp(min=1e-9)
    z, K = (s - mean_K) / std_K, s.shape[1]

    def loss(both: Tensor) -> Tensor:
        a, b = both.split(K)
        return F.cross_entropy(z * a + b, where_S.cpu()) + both.square().mean() * 1e-3

    a, b = minimised(loss, torch.cat([torch.ones(K), torch.zeros(K)]), 200).split(K)
    return (a / std_K).float(), (b - a * mean_K / std_K).float()
