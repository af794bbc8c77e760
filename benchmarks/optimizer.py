"""The masked optimiser step over the plain one, on GhostNet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Side, interleave
from benchmarks.row import Row, ratio
from benchmarks.setting import generator, ghostnet, half
from tombola.masks.prunable import scope
from tombola.optim import masked
from tombola.training.model import FunctionalModel

KINDS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}


def steps(name: str) -> Callable[[bool], list[Row]]:
    def measure(full: bool) -> list[Row]:
        kind, options = KINDS[name]
        net = ghostnet()
        f = FunctionalModel(net, scope(net))
        leaves, mask = f.theta0().leaves(), half(f)
        masks = [mask, *[None] * (len(leaves) - 1)]
        optimizer = masked(kind(_with_gradients(leaves), lr=1e-3, **options))
        sides: dict[str, Side] = {"masked": lambda: optimizer.step(masks)}
        for side, flags in (("plain", {}), ("fused", {"fused": True})):
            parameters = _with_gradients(list(ghostnet().parameters()))
            sides[side] = kind(parameters, lr=1e-3, **options, **flags).step
        times = interleave(sides, 400 if full else 100, warmup=10)
        row, title = f"optimizer_step_{name}", f"torch.optim.{kind.__name__}"
        return [
            ratio(row, times, "masked", "plain", f"{title}, default flags", 1.10),
            ratio(f"{row}_vs_fused", times, "masked", "fused", f"{title}(fused=True)"),
        ]

    return measure


def _with_gradients(tensors: list[Any]) -> list[Tensor]:
    for i, t in enumerate(tensors):
        t.grad = torch.randn(t.shape, generator=generator(i))
    return tensors
