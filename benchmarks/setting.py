"""The network, masks and tickets that the benchmarks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tombola.lab.models.ghostnet import GhostNet
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.pruning import keep_top
from tombola.tickets.model import TicketModel
from tombola.training.model import FunctionalModel
from tombola.training.norm import statistics_names


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ghostnet() -> GhostNet:
    return GhostNet(10, generator())


def mlp(width: int = 512, layers: int = 4) -> nn.Module:
    """Hidden layers of one width; no classifier, so that all weights are in scope."""
    torch.manual_seed(0)
    return nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())][:-1])


def half(function: FunctionalModel) -> Tensor:
    """A random mask of half of the weights in scope."""
    return keep_top(torch.rand(function.scope.size, generator=generator(1)), function.scope.size // 2)


def tickets(K: int = 10, jaccard: float = 0.93) -> TicketModel:
    """K tickets on GhostNet at 50%: the top half of ``|theta0 + noise|``, this much alike on average.

    Each keeps running statistics of its own, as tickets do by default.
    """
    net = ghostnet()
    layout = scope(net)
    parameters = dict(net.named_parameters())
    theta0 = layout.flatten(parameters).detach()
    scale = layout.flatten({n: parameters[n].detach().std().expand_as(parameters[n]) for n in layout.names})
    noise = torch.randn(K, layout.size, generator=generator(2)) * scale
    low, high = 0.0, 1.0
    for _ in range(20):
        level = (low + high) / 2
        masks = masks_of(layout, (theta0 + level * noise).abs())
        low, high = (level, high) if mean_jaccard(masks) > jaccard else (low, level)
    buffers = dict(net.named_buffers())
    statistics = {name: buffers[name] for name in statistics_names(net)}
    private = {
        name: {n: b + 0.01 * k * torch.rand(b.shape, generator=generator(k)) for n, b in statistics.items()}
        for k, name in enumerate(masks)
    }
    return TicketModel(net, masks, private).eval()


def masks_of(layout: Layout, scores_KN: Tensor) -> MaskSet:
    names = [f"ticket{k}" for k in range(len(scores_KN))]
    return MaskSet(layout, {n: keep_top(s, layout.size // 2) for n, s in zip(names, scores_KN, strict=True)})


def mean_jaccard(masks: MaskSet) -> float:
    """Over all pairs of different tickets."""
    K = len(masks)
    return float((masks.jaccard().sum() - K) / (K * (K - 1)))
