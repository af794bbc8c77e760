"""K one-vs-rest tickets, one answer: argmax, calibrated argmax, vector and matrix scaling; sets.

Shape letters: S samples, K tickets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import CalibrationError, unknown
from tombola.tickets.fitted import minimised

COUPLINGS = ("argmax", "calibrated", "vector", "matrix")
PENALTY = {"vector": 1e-4, "matrix": 1e-3}  # on the mean squared change from plain scores


def fit(kind: str, score_SK: Tensor, truth_S: Tensor) -> dict[str, Tensor]:
    """A small model that makes one answer of K scores, fitted on held-out samples.

    ``argmax`` and ``calibrated`` (the argmax of calibrated probabilities, normalised) learn nothing.
    ``vector`` is ``softmax(a ⊙ s + b)``, 2K numbers: a scale and a bias for each ticket make heads that were
    never compared in training comparable. ``matrix`` is ``softmax(A s + b)``, K² + K numbers: a ticket may
    also speak against others (arXiv 1706.04599, Section 4.2).
    """
    if kind not in COUPLINGS:
        raise CalibrationError(unknown("coupling", kind, COUPLINGS))
    s, K = score_SK.detach().double().cpu(), score_SK.shape[1]
    if K < 2:
        raise CalibrationError("one ticket has nothing to be coupled with")
    empty = [k for k in range(K) if not bool((truth_S == k).any())]
    if empty:
        raise CalibrationError(
            f"class number {empty[0]} has no held-out samples: coupling needs some of each"
        )
    if kind in ("argmax", "calibrated"):
        return {}
    mean, std = s.mean(0), s.std(0).clamp(min=1e-9)
    z = (s - mean) / std
    start = torch.ones(K) if kind == "vector" else torch.eye(K)

    def parts(both: Tensor) -> tuple[Tensor, Tensor]:
        return both[:-K].view_as(start), both[-K:]

    def loss(both: Tensor) -> Tensor:
        weight, bias = parts(both)
        logits = z * weight + bias if kind == "vector" else z @ weight.T + bias
        penalty = (weight - start).square().sum() + bias.square().sum()
        return F.cross_entropy(logits, truth_S.cpu()) + PENALTY[kind] * penalty

    w, b = parts(minimised(loss, torch.cat([start.flatten(), torch.zeros(K)]), 300))
    if kind == "vector":
        return {"weight": w / std, "bias": b - w * mean / std}
    return {"weight": w / std, "bias": b - w @ (mean / std)}


def apply(kind: str, state: dict[str, Tensor], score_SK: Tensor, p_SK: Tensor) -> Tensor:
    """Probabilities of the classes, double ``[S, K]``, rows sum to 1; ``p_SK`` are calibrated ones of yes."""
    s = score_SK.detach().double()
    if kind == "argmax":
        return s.softmax(1)
    if kind == "calibrated":
        return p_SK / p_SK.sum(1, keepdim=True).clamp(min=1e-12)
    weight, bias = state["weight"].to(s), state["bias"].to(s)
    return ((s * weight if kind == "vector" else s @ weight.T) + bias).softmax(1)


def conformal(p_SK: Tensor, truth_S: Tensor, miss: float) -> Tensor:
    """How improbable a class may be and still be named, ``[K]``: class-conditional split conformal sets.

    Class k is named where ``1 − p_k ≤ q_k``, ``q_k`` the ``⌈(n_k + 1)(1 − miss)⌉``-th smallest of ``1 − p_k``
    among its n_k held-out samples: at least ``1 − miss`` of each class are named in the long run, whatever
    the probabilities are worth (Vovk, 2012; Mondrian sets), if they were not fitted on these samples. 1 where
    samples are too few to exclude anything.

    >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    >>> [round(q, 2) for q in conformal(p, torch.tensor([0, 0, 1]), 0.5).tolist()]
    [0.2, 0.3]
    """
    if not 0 < miss < 1:
        raise CalibrationError(f"the share that may be missed lies between 0 and 1: got {miss}")
    found = []
    for k in range(p_SK.shape[1]):
        strange = 1 - p_SK[truth_S == k, k].double()
        rank = math.ceil((len(strange) + 1) * (1 - miss))
        found.append(float(strange.kthvalue(rank).values) if rank <= len(strange) else 1.0)
    return torch.tensor(found, dtype=torch.double)
