"""Routers that are linear in the features of the shallow layers: the nearest mean (the default), and a gate.

Shape letters: S samples, B batch, K tickets, D features, Q quantiles, J the first tickets
as one, then each other.
"""

from __future__ import annotations

from copy import copy
from typing import Self

import torch
from torch import Tensor

from tombola._utils.batch import Batch
from tombola._utils.device import device_of
from tombola._utils.errors import RouterError
from tombola.data.dataset import Data
from tombola.tickets.fitted import Tickets, fingerprint_of
from tombola.tickets.passes import evaluating
from tombola.tickets.routing.features import Gaussians, RouterFeatures, centres, of_one
from tombola.tickets.routing.router import Router, quantiles


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

    @torch.no_grad()
    def extended(self, tickets: Tickets, data: Data) -> Self | None:
        """With the means of one more ticket; features, covariance and factor stay those of the others."""
        assert self.shallow is not None
        first, name = self.shallow.first or len(self.names), tickets.names[-1]
        shallow, device = copy(self.shallow), device_of(tickets.backbone)
        shallow.first = first
        splits = [of_one(name, data, split, self.options["limit"]) for split in ("train", "validation")]
        with evaluating():
            train_SD, held_HD = (torch.cat([shallow(tickets, x) for x in s.batches(device)]) for s in splits)
        if not bool(torch.isfinite(train_SD).all()):
            raise RouterError("features of its data are not finite")
        mean_PD = centres((train_SD @ self.tensors["whiten_DD"]).double(), self._prototypes())
        means_KPD = torch.cat([self.tensors["means_KPD"], mean_PD.float()[None]])
        own_H = Gaussians(means_KPD, self.tensors["whiten_DD"])(held_HD).min(1).values
        before_JQ = self.tensors.get("distances_JQ", self.tensors["distances"][None])
        return self._among(tickets, first, means_KPD, torch.cat([before_JQ, quantiles(own_H)[None]]))

    def without(self, left: Tickets, name: str) -> Self | None:
        """Without the means of a ticket that was grown after the others were fitted.

        None for one of those: features and covariance are of the data of all of them.
        """
        assert self.shallow is not None
        first, k = self.shallow.first, self.names.index(name)
        distances_JQ = self.tensors.get("distances_JQ", torch.zeros(0))
        if not first or k < first or len(distances_JQ) != len(self.names) - first + 1:
            return None
        others = [j for j in range(len(self.names)) if j != k]
        rows = [0, *(j - first + 1 for j in others if j >= first)]
        return self._among(left, first, self.tensors["means_KPD"][others], distances_JQ[rows])

    def _among(self, tickets: Tickets, first: int, means_KPD: Tensor, distances_JQ: Tensor) -> Self:
        """The same for other tickets, of which it was fitted on the ``first``.

        Distances are of those together, then of each that was grown.
        """
        assert self.shallow is not None
        made = type(self)(**self.options)
        made.names, made.made_for = tuple(tickets.names), fingerprint_of(tickets)
        made.shallow = copy(self.shallow)
        made.tensors = {**self.tensors, "means_KPD": means_KPD, "distances": distances_JQ[0]}
        made.tensors.pop("distances_JQ", None)
        made.shallow.first = first if len(distances_JQ) > 1 else 0
        if made.shallow.first:
            each = [*[distances_JQ[0]] * first, *distances_JQ[1:]]  # each ticket counts once
            made.tensors |= {"distances_JQ": distances_JQ, "distances": quantiles(torch.cat(each))}
        return made

    def raw_BK(self, tickets: Tickets, x: Batch, features_BD: Tensor, distances_BK: Tensor) -> Tensor:  # noqa: ARG002
        """Minus half the squared distance."""
        return -distances_BK / 2


class GateRouter(Router):
    """Logistic regression of the context on the shallow features: K(D + 1) numbers that decide.

    The features are those of `PrototypeRouter`, whitened, which changes what the penalty means and not what
    can be told apart. A gate per frozen expert is PHATGOOSE's idea (arXiv 2402.05859); this one is trained on
    all contexts at once.

    Args:
        C: inverse strength of the penalty on the gate's weights.
        options: see `Router`.
    """

    kind = "gate"
    deciding = ("gate_KD", "bias_K")

    def __init__(self, *, C: float = 1.0, **options: int) -> None:
        super().__init__(**options)
        self.options["C"] = C

    def _fit(self, tickets: Tickets, found: RouterFeatures) -> None:  # noqa: ARG002
        # A second to import; ticket files are read without.
        from sklearn.linear_model import LogisticRegression

        z = found.features_SD.double().cpu() @ self.tensors["whiten_DD"].double()
        shift_D = z.mean(0)
        gate = LogisticRegression(C=float(self.options["C"]), max_iter=2000)
        gate.fit((z - shift_D).numpy(), found.train.where_S.numpy())
        weight, bias = torch.from_numpy(gate.coef_), torch.from_numpy(gate.intercept_)
        if len(weight) == 1:  # two classes share one row
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        # Whitening and centring are folded in: the gate reads plain features.
        weight_KD = weight @ self.tensors["whiten_DD"].double().T
        self.tensors["gate_KD"] = weight_KD.float()
        self.tensors["bias_K"] = (bias - weight @ shift_D).float()

    def raw_BK(self, tickets: Tickets, x: Batch, features_BD: Tensor, distances_BK: Tensor) -> Tensor:  # noqa: ARG002
        """Logits of the gate."""
        gate_KD, bias_K = self.tensors["gate_KD"].to(features_BD), self.tensors["bias_K"].to(features_BD)
        return features_BD @ gate_KD.T + bias_K
