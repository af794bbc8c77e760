"""What every masked optimiser has: masks that are checked, and state under stable names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tombola._utils.errors import OptimizerError

Entries = list[tuple[dict[str, Any], Tensor, Tensor | None]]  # group, parameter, mask


class MaskedOptimizer(torch.optim.Optimizer):
    """A ``torch.optim`` optimiser whose step takes a mask per parameter."""

    @abstractmethod
    def step(self, masks: Sequence[Tensor | None] | None = None) -> None:  # type: ignore[override]
        """Step every parameter that has a gradient, inside its mask (None: everywhere).

        Args:
            masks: one entry per parameter, in the order the optimiser got them: None or a boolean
                tensor of the parameter's shape.
        """

    def tensors(self) -> dict[str, Tensor]:
        """The state under stable names, for checkpoints: the tensors themselves, which steps change."""
        return {
            f"{i}.{key}": value
            for i, p in enumerate(self._parameters())
            for key, value in self.state.get(p, {}).items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`: the state becomes a copy of these, nothing of the old one stays."""
        parameters = self._parameters()
        self.state.clear()
        for name, value in tensors.items():
            i, key = name.split(".", 1)
            p = parameters[int(i)]
            self.state[p][key] = value.to(p.device, copy=True)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _entries(self, masks: Sequence[Tensor | None] | None) -> Entries:
        parameters = self._parameters()
        masks = masks if masks is not None else [None] * len(parameters)
        if len(masks) != len(parameters):
            raise OptimizerError(f"{len(masks)} masks for {len(parameters)} parameters: one each is needed")
        groups = [group for group in self.param_groups for _ in group["params"]]
        for p, m in zip(parameters, masks, strict=True):
            if m is not None and (m.shape != p.shape or m.dtype != torch.bool):
                raise OptimizerError(
                    f"a mask of {m.dtype} {tuple(m.shape)} does not fit a parameter of shape "
                    f"{tuple(p.shape)}: it must be boolean and of that shape"
                )
        work = zip(groups, parameters, masks, strict=True)
        return [(g, p, m) for g, p, m in work if p.grad is not None and p.numel()]
