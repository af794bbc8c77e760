"""A whole masked training step over the dense one, beside the three usual ways to mask."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import custom_from_mask

from benchmarks.measure import Side, interleave
from benchmarks.row import Row, ratio
from benchmarks.setting import generator, ghostnet, half, mlp
from tombola.masks.layout import Layout
from tombola.masks.prunable import scope
from tombola.optim import masked
from tombola.pruning import keep_top
from tombola.training.model import FunctionalModel

# So small that hundreds of steps learn nothing: a network that has learnt its one batch by heart has
# gradients and moments in the range of denormal numbers, which a CPU is slow at.
RATE = 1e-7
Masks = dict[str, Tensor]  # by the name of the weight, in its shape


def step_ghostnet(full: bool) -> list[Row]:
    x = torch.randn(320, 3, 32, 32, generator=generator()).to(memory_format=torch.channels_last)
    net = ghostnet()
    return _rows("masked_step_ghostnet", ghostnet, scope(net), x, full, 30 if full else 8, 1.05)


def step_mlp(full: bool) -> list[Row]:
    x = torch.randn(32, 512, generator=generator())
    return _rows("masked_step_mlp", mlp, scope(mlp(), ["*.weight"]), x, full, 400 if full else 100, 1.10)


def _rows(
    name: str,
    build: Callable[[], nn.Module],
    layout: Layout,
    x: Tensor,
    full: bool,
    repeats: int,
    target: float,
) -> list[Row]:
    """The step and, in a full run, the same with masks in turn and the usual ways."""
    y = torch.randint(10, (len(x),), generator=generator(3))
    f = FunctionalModel(build(), layout)
    mask = half(f)
    masks = layout.unflatten(mask)
    sides: dict[str, Side] = {
        "dense": _plain(build(), x, y),
        "tombola": masked_step(f, [mask], x, y),
    }
    others: dict[str, Side] = {}
    if full:
        others = {
            "in_turn": masked_step(f, masks_alike(f.scope.size, 10), x, y),
            "prune": _plain(_pruned(build(), masks), x, y),
            "parametrize": _plain(_parametrized(build(), masks), x, y),
            "multiply": _multiplied(build(), masks, x, y),
        }
    times = interleave(sides | others, repeats)
    against = f"dense step with Adam(fused=True), batch {len(x)}"
    return [
        ratio(name, times, "tombola", "dense", against, target),
        *(ratio(f"{name}_{other}", times, other, "dense", against) for other in others),
    ]


def masks_alike(N: int, K: int, level: float = 0.055) -> list[Tensor]:
    """K masks of half of the weights, of mean Jaccard about .95."""
    base = torch.randn(N, generator=generator(1)).abs()
    noise = (torch.randn(N, generator=generator(10 + k)) for k in range(K))
    return [keep_top(base + level * e.abs(), N // 2) for e in noise]


def masked_step(f: FunctionalModel, masks: list[Tensor], x: Tensor, y: Tensor) -> Side:
    theta = f.theta0()
    leaves = theta.leaves()
    optimizer = masked(torch.optim.Adam(leaves, lr=RATE))
    turns = itertools.cycle(masks)

    def step() -> None:
        mask = next(turns)
        optimizer.zero_grad()
        cross_entropy(f(theta, mask, x), y).backward()
        optimizer.step([mask, *[None] * (len(leaves) - 1)])

    return step


def _plain(module: nn.Module, x: Tensor, y: Tensor) -> Side:
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()
        optimizer.step()

    return step


def _pruned(module: nn.Module, masks: Masks) -> nn.Module:
    for name, mask in masks.items():
        custom_from_mask(module.get_submodule(name.removesuffix(".weight")), "weight", mask)
    return module


class _Masked(nn.Module):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _parametrized(module: nn.Module, masks: Masks) -> nn.Module:
    for name, mask in masks.items():
        layer = module.get_submodule(name.removesuffix(".weight"))
        parametrize.register_parametrization(layer, "weight", _Masked(mask))
    return module


def _multiplied(module: nn.Module, masks: Masks, x: Tensor, y: Tensor) -> Side:
    step = _plain(module, x, y)
    parameters = dict(module.named_parameters())
    pairs = [(parameters[name], mask.float()) for name, mask in masks.items()]

    def step_and_multiply() -> None:
        step()
        with torch.no_grad():
            for weight, mask in pairs:
                weight.mul_(mask)

    return step_and_multiply
