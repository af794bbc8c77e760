"""Adam (Kingma & Ba, arXiv 1412.6980) and AdamW (arXiv 1711.05101) with a step count per entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tombola._utils.errors import OptimizerError
from tombola.optim import fused
from tombola.optim.base import MaskedOptimizer
from tombola.optim.entrywise import Moments, Rules, update


class MaskedAdam(MaskedOptimizer):
    """Adam and AdamW inside masks."""

    def __init__(self, plain: torch.optim.Optimizer) -> None:
        for group in plain.param_groups:  # torch 2.7 gave the option to Adam too
            group.setdefault("decoupled_weight_decay", isinstance(plain, torch.optim.AdamW))
        super().__init__(plain.param_groups, plain.defaults)
        for group in self.param_groups:
            for p in group["params"]:
                if group["eps"] and not torch.tensor(group["eps"]).to(p.dtype):
                    raise OptimizerError(
                        f"eps={group['eps']:g} is 0 in {p.dtype}: a weight without gradient would become "
                        "NaN. Use bfloat16, or a larger eps (train.options)"
                    )
        self._begin()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    def _begin(self) -> None:
        counts = [int(state["steps"].max()) for state in self.state.values()]
        self._most = max(counts, default=0)  # no entry has made more steps than this
        self._rules = Rules()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`: the state becomes a copy of these, nothing of the old one stays."""
        super().restore(tensors)
        for state in self.state.values():
            state["steps"] = state["steps"].int()
        self._begin()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state in torch's form."""
        super().load_state_dict(state_dict)
        given = [i for group in state_dict["param_groups"] for i in group["params"]]
        for i, p in zip(given, self._parameters(), strict=True):
            if i in state_dict["state"]:  # torch rounded the counts to the parameter's dtype
                self.state[p]["steps"] = state_dict["state"][i]["steps"].to(p.device)
        self.restore(self.tensors())

    @torch.no_grad()
    def step(self, masks: Sequence[Tensor | None] | None = None) -> None:  # type: ignore[override]
        """Step inside the masks."""
        work = self._entries(masks)
        self._most += 1
        for group, p, mask in work:
            state = self.state[p]
            if not state:
                state["steps"] = torch.zeros_like(p, dtype=torch.int32)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            assert p.grad is not None
            moments = Moments(state["steps"], state["exp_avg"], state["exp_avg_sq"])
            rule = self._rules.of(group, p, self._most)
            if not fused.step(rule, p, p.grad, moments, mask):
                update(rule, p, p.grad, moments, mask)
