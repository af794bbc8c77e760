"""The default router: which context's mean is nearest, in the features of the shallow layers."""

from __future__ import annotations

from torch import Tensor

from tombola._utils.errors import RouterError
from tombola.tickets.fitted import Tickets
from tombola.tickets.routing.router import Router


class PrototypeRouter(Router):
    """Mahalanobis distance to class means with a shrunk shared covariance (linear discriminant analysis).

    One pass through the shallow layers under the core, no new weights in the network. The score of ticket k
    is ``−½ min_p (z − μ_kp)ᵀ Σ⁻¹ (z − μ_kp)``, scaled by one factor that is fitted on validation data. Class
    means with a shared covariance are the classifier of streaming LDA (arXiv 1909.01520); that the features
    come from what all tickets keep is ours.

    Args:
        prototypes: means per ticket, by k-means; for contexts that are several things.
        options: see `Router`.
    """

    kind = "prototype"

    def __init__(self, *, prototypes: int = 1, **options: int) -> None:
        super().__init__(**options)
        if prototypes < 1:
            raise RouterError(f"prototypes must be at least 1: got {prototypes}")
        self.options["prototypes"] = prototypes

    def _prototypes(self) -> int:
        return int(self.options["prototypes"])

    def raw_BK(self, tickets: Tickets, x: Tensor, features_BD: Tensor, distances_BK: Tensor) -> Tensor:  # noqa: ARG002
        """Minus half the squared distance."""
        return -distances_BK / 2
