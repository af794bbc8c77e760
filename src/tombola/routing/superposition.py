"""SupSup's task inference: all tickets at once, and the gradient says which helps.

Shape letters: B batch, K tickets, N weights in scope.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from tombola.errors import RouterError, unknown
from tombola.routing.router import Router, Tickets

OBJECTIVES = ("entropy", "log_sum_exp")
SEARCHES = ("one_shot", "binary")
CHUNK = 32  # samples with weights of their own in memory at once


class SuperpositionRouter(Router):
    """The published baseline (Wortsman et al., arXiv 2006.14769, Section 3.3).

    The network runs on the superposition ``Σ_k α_k (m_k ⊙ θ)`` with ``α_k = 1/K``. One-shot: the ticket is
    ``argmax_k −∂H/∂α_k``, H the entropy of the output. Binary: half of the tickets, those of low gradient, go
    in each of log2 K rounds, and α is uniform over the rest.

    Deviations. Private norm parameters and statistics are superposed as the masks are: they belong to a
    ticket as its mask does; the gradient is that through masks and parameters. The paper's second objective
    is the log-sum-exp of superfluous output neurons that training keeps low; there are none here, so
    ``log_sum_exp`` is that of all outputs, which is high at home, and the sign is the other. Nothing is
    learned for the decision; one factor, fitted on validation data, turns gradients into posteriors.

    Args:
        search: ``one_shot`` or ``binary``.
        objective: ``entropy`` or ``log_sum_exp``.
        options: see `Router`.
    """

    kind = "superposition"

    def __init__(self, *, search: str = "one_shot", objective: str = "entropy", **options: int) -> None:
        super().__init__(**options)
        for what, given, known in (("search", search, SEARCHES), ("objective", objective, OBJECTIVES)):
            if given not in known:
                raise RouterError(unknown(f"{what} of the superposition router", given, known))
        self.options |= {"search": search, "objective": objective}

    def raw_BK(self, tickets: Tickets, x: Tensor, features_BD: Tensor, distances_BK: Tensor) -> Tensor:  # noqa: ARG002
        """One-shot: minus the gradient. Binary: how many rounds a ticket survived, then its gradient."""
        return torch.cat([self._search(tickets, part) for part in x.split(CHUNK)])

    def _search(self, tickets: Tickets, x: Tensor) -> Tensor:
        K = len(tickets.names)
        alive_BK = torch.ones(len(x), K, dtype=torch.bool, device=x.device)
        helps_BK = self.helps_BK(tickets, x, alive_BK)
        if self.options["search"] == "one_shot":
            return helps_BK
        survived_BK = torch.zeros_like(helps_BK)
        for left in _rounds(K):
            ranked = helps_BK.masked_fill(~alive_BK, -torch.inf)
            order_BK = ranked.argsort(dim=1, descending=True, stable=True)
            alive_BK = torch.zeros_like(alive_BK).scatter(1, order_BK[:, :left], True)
            survived_BK = survived_BK + alive_BK
            if left > 1:
                helps_BK = torch.where(alive_BK, self.helps_BK(tickets, x, alive_BK), helps_BK)
        # Gradients break ties among those that left in the same round; they move nothing by a whole round.
        spread = helps_BK.abs().amax(1, keepdim=True).clamp(min=1e-30)
        return survived_BK + helps_BK / spread / 4

    def helps_BK(self, tickets: Tickets, x: Tensor, alive_BK: Tensor) -> Tensor:
        """``−∂H/∂α_k`` (or ``+∂/∂α_k`` of the log-sum-exp) per sample, α uniform over its live tickets."""
        weights_N = tickets.state(tickets.names[0])[0].detach()
        masks_KN = tickets.masks_KN.to(weights_N.dtype)
        private_KP, statistics_KS = tickets.private_KP.detach(), tickets.statistics_KS
        entropy = self.options["objective"] == "entropy"

        def objective(alpha_K: Tensor, one: Tensor) -> Tensor:
            named = tickets.scope.unflatten(weights_N * (alpha_K @ masks_KN))
            named |= tickets.private.unflatten(alpha_K @ private_KP)
            named |= tickets.statistics.unflatten(alpha_K.detach() @ statistics_KS)  # have no gradient
            outputs = functional_call(tickets.backbone, named, (one[None],))
            if not isinstance(outputs, Tensor) or outputs.ndim != 2:
                raise RouterError(
                    "the superposition router needs outputs [batch, classes]: take another router"
                )
            if not entropy:
                return outputs.logsumexp(1)[0]
            return (outputs.softmax(1) * outputs.log_softmax(1)).sum(1)[0]  # minus the entropy

        alpha_BK = alive_BK.to(weights_N.dtype) / alive_BK.sum(1, keepdim=True)
        with torch.enable_grad():
            found: Tensor = vmap(grad(objective))(alpha_BK, x)
        return found.detach()

    def passes(self, K: int) -> str:
        """One forward and backward pass per round."""
        count = 1 if self.options["search"] == "one_shot" else len(_rounds(K))
        return f"{count} forward and {count} backward"

    def _deciding(self) -> tuple[str, ...]:
        return ()


def _rounds(K: int) -> list[int]:
    """How many tickets are left after each round.

    >>> _rounds(10)
    [5, 3, 2, 1]
    """
    left = []
    while K > 1:
        K = math.ceil(K / 2)
        left.append(K)
    return left
