"""Optimisers that touch only what the ticket owns.

Masking the gradient is not enough: the momentum of one ticket moves weights of another, and a zero
gradient decays moments that were not trained. Here a step changes exactly the entries that the masks
name. Everything else, the parameter, its moments and its step count, keeps its bits: every entry
behaves as if it were a parameter of its own that skips the steps which do not concern it (the
semantics of ``torch.optim.SparseAdam``).

    optimizer = masked(torch.optim.Adam(parameters, lr=1e-3))
    loss.backward()
    optimizer.step([mask_or_None for each parameter])
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tombola.errors import OptimizerError

# Optimisers whose update is elementwise and never reads a step count: any entry can skip a step.
STEP_FREE: dict[type[torch.optim.Optimizer], dict[str, Any]] = {
    torch.optim.SGD: {"dampening": 0},
    torch.optim.RMSprop: {},
    torch.optim.Adagrad: {"lr_decay": 0},
    torch.optim.Adadelta: {},
}
ADAM = (torch.optim.Adam, torch.optim.AdamW)
_SUPPORTED = ", ".join(kind.__name__ for kind in (*ADAM, *STEP_FREE))


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
        """The state under stable names, for checkpoints."""
        return {
            f"{i}.{key}": value
            for i, p in enumerate(self._parameters())
            for key, value in self.state.get(p, {}).items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        parameters = self._parameters()
        for name, value in tensors.items():
            i, key = name.split(".", 1)
            self.state[parameters[int(i)]][key] = value

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _work(self, masks: Sequence[Tensor | None] | None) -> list[tuple[dict, Tensor, Tensor | None]]:
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


def masked(optimizer: torch.optim.Optimizer) -> MaskedOptimizer:
    """The masked form of a ``torch.optim`` optimiser that has not stepped yet.

    Raises:
        OptimizerError: the optimiser, or an option of it, cannot be masked exactly.

    >>> w = torch.ones(3, requires_grad=True)
    >>> optimizer = masked(torch.optim.SGD([w], lr=0.5))
    >>> w.sum().backward()
    >>> optimizer.step([torch.tensor([True, False, True])])
    >>> w.tolist()
    [0.5, 1.0, 0.5]
    """
    kind = type(optimizer)
    if any(optimizer.state[p] for g in optimizer.param_groups for p in g["params"]) and (
        kind is not torch.optim.Adagrad
    ):
        raise OptimizerError("the optimiser has already stepped: mask a new one")
    if kind in ADAM:
        for group in optimizer.param_groups:
            _refuse(kind, group, {"amsgrad": False, "maximize": False})
        return _MaskedAdam(optimizer)
    if kind in STEP_FREE:
        for group in optimizer.param_groups:
            _refuse(kind, group, {**STEP_FREE[kind], "differentiable": False})
        return _MaskedStepFree(optimizer)
    raise OptimizerError(
        f"{kind.__name__} cannot be masked exactly (its update mixes entries, or counts steps for a "
        f"whole tensor); use one of {_SUPPORTED}"
    )


def _refuse(kind: type, group: dict[str, Any], needed: dict[str, Any]) -> None:
    for option, value in needed.items():
        if group.get(option, value) != value:
            raise OptimizerError(
                f"{kind.__name__}({option}={group[option]!r}) cannot be masked exactly; leave "
                f"{option}={value!r}"
            )


class _MaskedAdam(MaskedOptimizer):
    """Adam (Kingma & Ba, arXiv 1412.6980) and AdamW (arXiv 1711.05101) with a step count per entry."""

    def __init__(self, plain: torch.optim.Optimizer) -> None:
        super().__init__([{**group} for group in plain.param_groups], {})
        self.decoupled = isinstance(plain, torch.optim.AdamW)

    @torch.no_grad()
    def step(self, masks: Sequence[Tensor | None] | None = None) -> None:  # type: ignore[override]
        for group, p, mask in self._work(masks):
            state = self.state[p]
            if not state:
                state["steps"] = torch.zeros_like(p)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            self._update(group, p, mask, state)

    def _update(self, group: dict, p: Tensor, mask: Tensor | None, state: dict[str, Tensor]) -> None:
        lr, (beta1, beta2), decay = float(group["lr"]), group["betas"], group["weight_decay"]
        assert p.grad is not None
        g = p.grad if self.decoupled or not decay else p.grad.add(p, alpha=decay)
        t = state["steps"] + 1
        m = state["exp_avg"].lerp(g, 1 - beta1)
        v = torch.addcmul(state["exp_avg_sq"] * beta2, g, g, value=1 - beta2)
        # θ ← θ − η · m̂ / (√v̂ + ε), with m̂ = m / (1 − β1^t) and v̂ = v / (1 − β2^t)
        denominator = (v / _bias(beta2, t)).sqrt_().add_(group["eps"]).mul_(_bias(beta1, t))
        start = p * (1 - lr * decay) if self.decoupled and decay else p
        new = torch.addcdiv(start, m, denominator, value=-lr)
        fresh = {"steps": t, "exp_avg": m, "exp_avg_sq": v}
        _keep(p, new, mask)
        for key, value in fresh.items():
            _keep(state[key], value, mask)


def _bias(beta: float, t: Tensor) -> Tensor:
    return torch.pow(beta, t).neg_().add_(1)


def _keep(old: Tensor, new: Tensor, mask: Tensor | None) -> None:
    """``old ← new`` inside the mask, in place; outside it the bits stay."""
    if mask is None:
        old.copy_(new)
    else:
        torch.where(mask, new, old, out=old)


class _MaskedStepFree(MaskedOptimizer):
    """Any optimiser of `STEP_FREE`: it steps as it is, then entries outside the mask go back."""

    def __init__(self, plain: torch.optim.Optimizer) -> None:
        super().__init__(plain.param_groups, plain.defaults)
        self.plain = plain
        plain.param_groups = self.param_groups
        plain.state = self.state

    @torch.no_grad()
    def step(self, masks: Sequence[Tensor | None] | None = None) -> None:  # type: ignore[override]
        work = [(p, mask) for _, p, mask in self._work(masks) if mask is not None]
        before = [(p, mask, p.clone(), self._moments(p, clone=True)) for p, mask in work]
        self.plain.step()
        for p, mask, p_old, state_old in before:
            torch.where(mask, p, p_old, out=p)
            for key, value in self._moments(p).items():
                old = state_old.get(key, torch.zeros_like(value))
                torch.where(mask, value, old, out=value)

    def _moments(self, p: Tensor, clone: bool = False) -> dict[str, Tensor]:
        state = self.state[p].items()
        moments = {k: v for k, v in state if isinstance(v, Tensor) and v.shape == p.shape}
        return {k: v.clone() for k, v in moments.items()} if clone else moments
