"""SupSup's task inference: all tickets at once, and the gradient says which helps.

Shape letters: B batch, K tickets, N weights in scope.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from tombola._utils.batch import Batch, call, first, mapped, size, split, take
from tombola._utils.errors import RouterError, unknown
from tombola.tickets.fitted import Tickets, read
from tombola.tickets.routing.router import Router

OBJECTIVES = ("entropy", "log_sum_exp")
SEARCHES = ("one_shot", "binary")
CHUNK = 128  # samples in memory at once


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
    deciding = ()

    def __init__(self, *, search: str = "one_shot", objective: str = "entropy", **options: int) -> None:
        super().__init__(**options)
        for what, given, known in (("search", search, SEARCHES), ("objective", objective, OBJECTIVES)):
            if given not in known:
                raise RouterError(unknown(f"{what} of the superposition router", given, known))
        self.options |= {"search": search, "objective": objective}

    def raw_BK(self, tickets: Tickets, x: Batch, features_BD: Tensor, distances_BK: Tensor) -> Tensor:  # noqa: ARG002
        """One-shot: minus the gradient. Binary: how many rounds a ticket survived, then its gradient."""
        return torch.cat([self._search(tickets, part) for part in split(x, CHUNK)]).cpu()

    def _search(self, tickets: Tickets, x: Batch) -> Tensor:
        K = len(tickets.names)
        alive_BK = torch.ones(size(x), K, dtype=torch.bool, device=first(x).device)
        helps_BK = self.helps_BK(tickets, x, alive_BK)
        if self.options["search"] == "one_shot":
            return helps_BK
        survived_BK = torch.zeros_like(helps_BK)
        left = K
        while left > 1:  # of ten tickets 5, 3, 2, 1 are left
            left = math.ceil(left / 2)
            ranked = helps_BK.masked_fill(~alive_BK, -torch.inf)
            order_BK = ranked.argsort(dim=1, descending=True, stable=True)
            alive_BK = torch.zeros_like(alive_BK).scatter(1, order_BK[:, :left], True)
            survived_BK = survived_BK + alive_BK
            if left > 1:
                helps_BK = torch.where(alive_BK, self.helps_BK(tickets, x, alive_BK), helps_BK)
        # Gradients break ties among those that left in the same round; they move nothing by a whole round.
        spread = helps_BK.abs().amax(1, keepdim=True).clamp(min=1e-30)
        return survived_BK + helps_BK / spread / 4

    def helps_BK(self, tickets: Tickets, x: Batch, alive_BK: Tensor) -> Tensor:
        """``−∂H/∂α_k`` (or ``+∂/∂α_k`` of the log-sum-exp) per sample, α uniform over its live tickets.

        0 for tickets that are not alive. Samples with the same live tickets run on the same weights, so they
        are one batch, and one pass in forward mode gives the slope of all of them for one ticket.
        """
        helps = Certainty(tickets, self.options["objective"] == "entropy")
        found_BK = torch.zeros(alive_BK.shape, dtype=helps.weights_N.dtype, device=first(x).device)
        present, which_B = alive_BK.unique(dim=0, return_inverse=True)
        for i, alive_K in enumerate(present):
            mine = (which_B == i).nonzero()[:, 0]
            try:
                found_BK[mine] = helps.forward(alive_K, take(x, mine))
            except NotImplementedError:  # of an operation without a forward mode
                found_BK[mine] = helps.reverse(alive_K, take(x, mine))
        return found_BK


class Certainty:
    """Minus the entropy, or the log-sum-exp, of the superposed network, and its slopes in α."""

    def __init__(self, tickets: Tickets, entropy: bool) -> None:
        self.tickets, self.entropy = tickets, entropy
        self.weights_N = tickets.state(tickets.names[0])[0].detach()
        self.masks_KN = tickets.masks_KN.to(self.weights_N.dtype)

    def __call__(self, alpha_K: Tensor, x: Batch) -> Tensor:
        """The objective of each sample, ``[B]``."""
        t = self.tickets
        named = t.scope.unflatten(self.weights_N * (alpha_K @ self.masks_KN))
        named |= t.private.unflatten(alpha_K @ t.private_KP.detach())
        named |= t.statistics.unflatten(alpha_K.detach() @ t.statistics_KS)  # have no gradient
        outputs = read(t, call(t.replica(named).module, x))
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise RouterError("the superposition router needs outputs [batch, classes]: take another router")
        if not self.entropy:
            return outputs.logsumexp(1)
        return (outputs.softmax(1) * outputs.log_softmax(1)).sum(1)

    def forward(self, alive_K: Tensor, x: Batch) -> Tensor:
        """Slopes ``[B, K]`` at the uniform α of these tickets, one pass in forward mode for each of them."""
        slopes = torch.zeros(size(x), len(alive_K), dtype=self.weights_N.dtype, device=first(x).device)
        alpha_K = self._uniform(alive_K)
        for k in alive_K.nonzero()[:, 0].tolist():
            way_K = torch.zeros_like(alpha_K)
            way_K[k] = 1
            slopes[:, k] = jvp(lambda alpha_K: self(alpha_K, x), (alpha_K,), (way_K,))[1]
        return slopes

    @torch.enable_grad()
    def reverse(self, alive_K: Tensor, x: Batch) -> Tensor:
        """The same by a gradient for each sample; slower, but every operation has it."""
        slope = grad(lambda alpha_K, one: self(alpha_K, mapped(lambda t: t[None], one))[0])
        alpha_K = self._uniform(alive_K)
        try:
            slopes_BK = vmap(slope, in_dims=(None, 0))(alpha_K, x)
        except RuntimeError as error:  # of a network that looks at its inputs, as transformers do at masks
            if "vmap" not in str(error):
                raise
            each = (mapped(lambda t: t[0], one) for one in split(x, 1))
            slopes_BK = torch.stack([slope(alpha_K, one) for one in each])
        return slopes_BK.detach() * alive_K

    def _uniform(self, alive_K: Tensor) -> Tensor:
        return alive_K.to(self.weights_N.dtype) / alive_K.sum()
