"""Optimisers whose update is elementwise and never reads a step count: any entry can skip a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tombola.optim.base import MaskedOptimizer
from tombola.optim.bits import bits_of, put


class MaskedStepFree(MaskedOptimizer):
    """Steps as it is, then entries outside the mask go back."""

    def __init__(self, plain: torch.optim.Optimizer) -> None:
        super().__init__(plain.param_groups, plain.defaults)
        self.state.update(plain.state)  # Adagrad's sums
        self.plain = plain

    @torch.no_grad()
    def step(self, masks: Sequence[Tensor | None] | None = None) -> None:  # type: ignore[override]
        """Step inside the masks."""
        work = [(p, mask) for _, p, mask in self._entries(masks) if mask is not None]
        before = [(p, mask, p.clone(), self._moments(p, clone=True)) for p, mask in work]
        self.plain.param_groups, self.plain.state = self.param_groups, self.state
        self.plain.step()
        for p, mask, p_old, state_old in before:
            outside = bits_of(~mask, p)
            put(p, p_old, outside)
            for key, value in self._moments(p).items():
                put(value, state_old.get(key, torch.zeros_like(value)), outside)

    def _moments(self, p: Tensor, clone: bool = False) -> dict[str, Tensor]:
        state = self.state[p].items()  # "step" counts for the whole tensor, and no update reads it
        moments = {k: v for k, v in state if isinstance(v, Tensor) and k != "step"}
        return {k: v.clone() for k, v in moments.items()} if clone else moments
