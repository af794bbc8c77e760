"""Adam with a step count of its own for every entry, in torch's operations.

``θ ← θ − η · m̂ / (√v̂ + ε)`` with ``m̂ = m / (1 − β1^t)`` and ``v̂ = v / (1 − β2^t)`` (Kingma & Ba, arXiv
1412.6980), where t differs from entry to entry. Multiplied out:
``θ ← θ − a_t m / (√v + b_t)`` with ``a_t = η √(1 − β2^t) / (1 − β1^t)`` and ``b_t = ε √(1 − β2^t)``.

Every operation here rounds by itself (no fused multiply-add), so an entry's bits do not depend on where it
lies, on the number of threads, or on whether `tombola.optim.fused` does the same in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola.optim.bits import bits_of, put


@dataclass
class Moments:
    """Adam's state: step counts (int32) and the two moments."""

    steps: Tensor
    m: Tensor
    v: Tensor


@dataclass(frozen=True)
class Rule:
    """The numbers of one step; ``a_t`` and ``b_t`` are tables over t."""

    beta1: float
    beta2: float
    decay: float  # added to the gradient, in units of the weight
    shrink: float  # what weights are multiplied by
    a_t: Tensor
    b_t: Tensor

    @property
    def near(self) -> bool:
        """Whether the mean is written as m + …, as it rounds best when it moves little."""
        return self.beta1 > 0.5


class Rules:
    """Makes the rule of a step; remembers tables, which are ten times faster than ``β ** t``."""

    def __init__(self) -> None:
        self._tables: dict[Any, tuple[Tensor, Tensor]] = {}

    def of(self, group: dict[str, Any], like: Tensor, most: int) -> Rule:
        """The rule of a parameter group for every t up to ``most``, of the dtype and device of ``like``."""
        key = (*group["betas"], group["eps"], like.dtype, like.device)
        if key not in self._tables or len(self._tables[key][0]) <= most:
            t = torch.arange(2 * most + 1024, dtype=torch.float64)
            bias1, bias2 = (1 - beta**t for beta in group["betas"])
            self._tables[key] = (bias2.sqrt() / bias1).to(like), (group["eps"] * bias2.sqrt()).to(like)
        a, b = self._tables[key]
        lr, decay, decoupled = float(group["lr"]), group["weight_decay"], group["decoupled_weight_decay"]
        beta1, beta2 = map(float, group["betas"])
        return Rule(
            beta1, beta2, 0.0 if decoupled else decay, 1 - lr * decay if decoupled else 1.0, a * lr, b
        )


def update(rule: Rule, p: Tensor, g: Tensor, state: Moments, mask: Tensor | None) -> None:
    """One step, in place, of the entries in the mask (None: of all).

    Args:
        rule: of `Rules`.
        p: weights, of any shape; gradients ``g`` and the moments have the same.
        g: gradients; what they hold outside the mask does not matter.
        state: the moments.
        mask: boolean, of that shape.
    """
    bits = None if mask is None else bits_of(mask, p)
    g = g + p * rule.decay if rule.decay else g
    t = state.steps.add_(1 if mask is None else mask)
    gap = g - state.m
    m = gap.mul_(1 - rule.beta1).add_(state.m) if rule.near else g - gap.mul_(rule.beta1)
    v = (state.v * rule.beta2).add_((g * (1 - rule.beta2)).mul_(g))
    denominator = _root(v).add_(_look_up(rule.b_t, t))
    moved = _look_up(rule.a_t, t).mul_(m).div_(denominator)
    new = (p * rule.shrink).sub_(moved) if rule.shrink != 1 else p - moved
    for old, value in ((p, new), (state.m, m), (state.v, v)):
        put(old, value, bits)


def _root(v: Tensor) -> Tensor:
    """``√v``, correctly rounded. On a CPU torch's is not, and takes fifty times as long for zeros."""
    if v.device.type == "cpu" and v.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sqrt(np.atleast_1d(v.numpy()))).view(v.shape)
    return v.sqrt()


def _look_up(table: Tensor, t: Tensor) -> Tensor:
    return torch.index_select(table, 0, t.reshape(-1)).view(t.shape)
