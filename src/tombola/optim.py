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
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number
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
            self.state[parameters[int(i)]][key] = value.clone()

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
    if kind not in ADAM and kind not in STEP_FREE:
        raise OptimizerError(
            f"{kind.__name__} cannot be masked exactly (its update mixes entries, or counts steps for a "
            f"whole tensor); use one of {_SUPPORTED}"
        )
    # Adagrad alone has a state before its first step: a step count of 0 and the initial sums.
    if any(state.get("step", 1) > 0 for state in optimizer.state.values() if state):
        raise OptimizerError(f"this {kind.__name__} has already stepped: mask a new one")
    needed = {"amsgrad": False, "maximize": False} if kind in ADAM else STEP_FREE[kind]
    for group in optimizer.param_groups:
        _refuse(kind, group, {**needed, "differentiable": False})
        if any(p.is_complex() for p in group["params"]):
            raise OptimizerError("complex parameters cannot be masked: optimise torch.view_as_real of them")
    return _MaskedAdam(optimizer) if kind in ADAM else _MaskedStepFree(optimizer)


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
        for group in plain.param_groups:  # torch 2.7 gave the option to Adam too
            group.setdefault("decoupled_weight_decay", isinstance(plain, torch.optim.AdamW))
        super().__init__(plain.param_groups, plain.defaults)
        self.most = 0  # no entry has made more steps than this
        self._tables: dict[Any, tuple[Tensor, Tensor]] = {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        super().restore(tensors)
        for state in self.state.values():
            state["steps"] = state["steps"].int()
        self.most = max((int(state["steps"].max()) for state in self.state.values()), default=0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.restore(self.tensors())  # torch makes every state a number of the parameter's dtype

    @torch.no_grad()
    def step(self, masks: Sequence[Tensor | None] | None = None) -> None:  # type: ignore[override]
        work = self._work(masks)
        self.most += 1
        for group, p, mask in work:
            state = self.state[p]
            if not state:
                state["steps"] = torch.zeros_like(p, dtype=torch.int32)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            self._update(group, p, mask, state)

    def _update(self, group: dict, p: Tensor, mask: Tensor | None, state: dict[str, Tensor]) -> None:
        lr, (beta1, beta2), decay = float(group["lr"]), group["betas"], group["weight_decay"]
        decoupled = group["decoupled_weight_decay"]
        assert p.grad is not None
        g = p.grad if decoupled or not decay else p.grad.add(p, alpha=decay)
        t = state["steps"].add_(1 if mask is None else mask)
        m = state["exp_avg"].lerp(g, 1 - beta1)
        v = torch.addcmul(state["exp_avg_sq"] * beta2, g, g, value=1 - beta2)
        # θ ← θ − η · m̂ / (√v̂ + ε), with m̂ = m / (1 − β1^t) and v̂ = v / (1 − β2^t); multiplied out:
        # θ ← θ − η · m a_t / (√v + b_t), with a_t = √(1 − β2^t) / (1 − β1^t) and b_t = ε √(1 − β2^t)
        a, b = self._corrections(group, p)
        numerator = _look_up(a, t).mul_(m)
        # Where nothing was trained v is 0, whose root takes a CPU thirty times as long as another's; the
        # root of the smallest normal number is as invisible beside b_t.
        denominator = _look_up(b, t).add_(v.clamp(min=torch.finfo(v.dtype).tiny).sqrt_())
        start = p * (1 - lr * decay) if decoupled and decay else p
        new = torch.addcdiv(start, numerator, denominator, value=-lr)
        bits = None if mask is None else _bits(mask, p)
        for old, value in ((p, new), (state["exp_avg"], m), (state["exp_avg_sq"], v)):
            _put(old, value, bits)

    def _corrections(self, group: dict, p: Tensor) -> tuple[Tensor, Tensor]:
        """Tables of a_t and b_t for all t so far: looking up is ten times faster than ``β ** t``."""
        key = (*group["betas"], group["eps"], p.dtype, p.device)
        if key not in self._tables or len(self._tables[key][0]) <= self.most:
            t = torch.arange(2 * self.most + 1024, dtype=torch.float64)
            bias1, bias2 = (1 - beta**t for beta in group["betas"])
            tables = bias2.sqrt() / bias1, group["eps"] * bias2.sqrt()
            self._tables[key] = tables[0].to(p), tables[1].to(p)
        return self._tables[key]


def _look_up(table: Tensor, t: Tensor) -> Tensor:
    return torch.index_select(table, 0, t.reshape(-1)).view(t.shape)


def _bits(mask: Tensor, like: Tensor) -> Tensor:
    """All bits of a number set where the mask is True, none where it is False."""
    return mask.to(_INTEGER[like.element_size()]).neg_()


def _put(old: Tensor, new: Tensor, bits: Tensor | None) -> None:
    """``old ← new`` in place where the bits are set; elsewhere its bits stay. ``new`` is used up.

    What ``torch.where`` does, by arithmetic: on a CPU that one branches at every entry, which costs
    twice the time of these three passes when the mask has no pattern.
    """
    if bits is None:
        old.copy_(new)
    else:
        old, new = old.detach().view(bits.dtype), new.detach().view(bits.dtype)
        old.bitwise_xor_(new.bitwise_xor_(old).bitwise_and_(bits))


class _MaskedStepFree(MaskedOptimizer):
    """Any optimiser of `STEP_FREE`: it steps as it is, then entries outside the mask go back."""

    def __init__(self, plain: torch.optim.Optimizer) -> None:
        super().__init__(plain.param_groups, plain.defaults)
        self.state.update(plain.state)  # Adagrad's sums
        self.plain = plain

    @torch.no_grad()
    def step(self, masks: Sequence[Tensor | None] | None = None) -> None:  # type: ignore[override]
        work = [(p, mask) for _, p, mask in self._work(masks) if mask is not None]
        before = [(p, mask, p.clone(), self._moments(p, clone=True)) for p, mask in work]
        self.plain.param_groups, self.plain.state = self.param_groups, self.state
        self.plain.step()
        for p, mask, p_old, state_old in before:
            outside = _bits(~mask, p)
            _put(p, p_old, outside)
            for key, value in self._moments(p).items():
                _put(value, state_old.get(key, torch.zeros_like(value)), outside)

    def _moments(self, p: Tensor, clone: bool = False) -> dict[str, Tensor]:
        state = self.state[p].items()  # "step" counts for the whole tensor, and no update reads it
        moments = {k: v for k, v in state if isinstance(v, Tensor) and k != "step"}
        return {k: v.clone() for k, v in moments.items()} if clone else moments
