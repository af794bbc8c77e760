"""Adam (Kingma & Ba, arXiv 1412.6980) and AdamW (arXiv 1711.05101) with a step count for every entry.

``θ ← θ − η · m̂ / (√v̂ + ε)`` with ``m̂ = m / (1 − β1^t)`` and ``v̂ = v / (1 − β2^t)``, where t differs from
entry to entry. Multiplied out:
``θ ← θ − a_t m / (√v + b_t)`` with ``a_t = η √(1 − β2^t) / (1 − β1^t)`` and ``b_t = ε √(1 − β2^t)``.

`update` takes about twenty-five passes over memory in torch's operations, the compiled kernel one, to the
same bits: every operation rounds by itself (no fused multiply-add), so an entry's bits do not depend on where
it lies, on the number of threads, or on which of the two makes the step.

Measured on one thread of an AVX-512 processor, a million weights: 2.1 ms where all owned entries have made
equally many steps, 2.8 ms where they have not; torch's ``Adam(fused=True)``, which counts for the whole
tensor, takes 1.6 ms.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils import native
from tombola._utils.errors import OptimizerError
from tombola._utils.sharded import local
from tombola.optim.base import MaskedOptimizer, Masks, bits_of, put

SMALLEST = 1 << 15  # entries: below, twenty-five operations take a tenth of a millisecond
_PER_THREAD = 1 << 20  # entries that are worth a thread: below, waiting for the second one eats its gain
_KINDS = {torch.float32: ("adam_float32", ctypes.c_float), torch.float64: ("adam_float64", ctypes.c_double)}


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
        steps = (local(state["steps"]) for state in self.state.values())
        counts = [int(t.max()) for t in steps if t.numel()]  # a shard may be empty
        self._most = max(counts, default=0)  # no entry has made more steps than this
        self._rules = Rules()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`: the state becomes a copy of these, nothing of the old one stays."""
        super().restore(tensors)
        for state in self.state.values():
            state["steps"] = state["steps"].int()
        self._begin()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state in torch's form.

        Raises:
            OptimizerError: it is of a plain optimiser, which counts steps for a whole tensor.
        """
        if any("steps" not in state for state in state_dict["state"].values()):
            raise OptimizerError(
                "this is the state of a plain Adam: load that of a masked one, or begin anew"
            )
        super().load_state_dict(state_dict)
        given = [i for group in state_dict["param_groups"] for i in group["params"]]
        for i, p in zip(given, self._parameters(), strict=True):
            if i in state_dict["state"]:  # torch rounded the counts to the parameter's dtype
                self.state[p]["steps"] = state_dict["state"][i]["steps"].to(p.device)
        self.restore(self.tensors())

    def _step(self, masks: Masks) -> None:
        work = self._entries(masks)
        self._most += 1
        for group, p, mask in work:
            state = self.state[p]
            if not state:
                state["steps"] = torch.zeros_like(p, dtype=torch.int32)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            assert p.grad is not None
            moments = Moments(*(local(state[name]) for name in ("steps", "exp_avg", "exp_avg_sq")))
            own, g = local(p), local(p.grad)
            rule = self._rules.of(group, own, self._most)
            if not _update_in_one_pass(rule, own, g, moments, mask):
                update(rule, own, g, moments, mask)


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
        self._scaled: dict[Any, tuple[Tensor, float, Tensor]] = {}  # table, rate, their product

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
        known = self._scaled.get(key)
        if known is None or known[0] is not a or known[1] != lr:  # once a step, not for each parameter
            known = self._scaled[key] = a, lr, a * lr
        return Rule(
            beta1, beta2, 0.0 if decoupled else decay, 1 - lr * decay if decoupled else 1.0, known[2], b
        )


def update(rule: Rule, p: Tensor, g: Tensor, state: Moments, mask: Tensor | None) -> None:
    """One step, in place, of the entries in the mask (None: of all), in torch's operations.

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


# -- the compiled kernel -------------------------------------------------------------------------------


def _update_in_one_pass(rule: Rule, p: Tensor, g: Tensor, state: Moments, mask: Tensor | None) -> bool:
    """`update`, if the kernel can make it; whether it did."""
    tensors = (p, state.m, state.v, state.steps)
    if p.numel() < SMALLEST or p.device.type != "cpu" or not all(t.is_contiguous() for t in tensors):
        return False
    function = _kernel(p.dtype)
    if function is None:
        return False
    g = g.contiguous()
    own = torch.ones(p.numel(), dtype=torch.bool) if mask is None else mask.contiguous()
    _in_threads(function, rule, (own, p, g, *tensors[1:]))
    torch.autograd.graph.increment_version(p)  # as torch's own operations in place do
    return True


def _in_threads(function: Callable[..., None], rule: Rule, tensors: tuple[Tensor, ...]) -> None:
    """Call the kernel on equal parts, a thread for each: it lets go of Python's lock while it works."""
    tables = (rule.a_t.data_ptr(), rule.b_t.data_ptr())
    numbers = (rule.beta1, 1 - rule.beta1, rule.beta2, 1 - rule.beta2, rule.decay, rule.shrink, rule.near)

    def part(start: int, end: int) -> None:
        places = (t.data_ptr() + start * t.element_size() for t in tensors)
        function(end - start, *places, *tables, *numbers)

    count = tensors[0].numel()
    parts = max(1, min(torch.get_num_threads(), count // _PER_THREAD))
    first, *others = pairwise(count * i // parts for i in range(parts + 1))
    threads = [Thread(target=part, args=span) for span in others]
    for thread in threads:
        thread.start()
    part(*first)
    for thread in threads:
        thread.join()


@cache
def _kernel(dtype: torch.dtype) -> Callable[..., None] | None:
    """The compiled step for a dtype; None if there is none, or if its bits are not those of `update`."""
    library = native.load()
    if library is None or dtype not in _KINDS:
        return None
    name, number = _KINDS[dtype]
    function = getattr(library, name)
    function.argtypes = [ctypes.c_long, *[ctypes.c_void_p] * 8, *[number] * 6, ctypes.c_int]
    function.restype = None
    return function if _agrees(function, dtype) else None


def _agrees(function: Callable[..., None], dtype: torch.dtype) -> bool:
    """Adam and AdamW, with and without decay, where entries have made unequal and equally many steps."""
    rules = (
        {"betas": betas, "weight_decay": decay, "decoupled_weight_decay": decoupled}
        for betas in ((0.9, 0.99), (0.3, 0.4))
        for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True))
    )
    groups = [{"lr": 0.01, "eps": 1e-6, **rule} for rule in rules]
    return all(_agrees_on(function, dtype, group, each) for group in groups for each in (1, 100))


def _agrees_on(function: Callable[..., None], dtype: torch.dtype, group: dict[str, Any], each: int) -> bool:
    random = torch.Generator().manual_seed(0)
    p, g, m, v = torch.randn(4, 5000, generator=random, dtype=dtype)
    steps, mask = torch.arange(5000, dtype=torch.int32) % each, torch.arange(5000) % 3 > 0
    rule = Rules().of(group, p, 100)
    theirs, q = Moments(steps.clone(), m.clone(), v.square()), p.clone()
    ours = Moments(steps, m.clone(), v.square())
    update(rule, q, g, theirs, mask)
    _in_threads(function, rule, (mask, p, g, ours.m, ours.v, ours.steps))
    pairs = ((p, q), (ours.m, theirs.m), (ours.v, theirs.v), (ours.steps, theirs.steps))
    return all(torch.equal(a, b) for a, b in pairs)
