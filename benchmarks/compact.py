"""A ticket of channels as a smaller network, over the dense one."""

from __future__ import annotations

import torch

from benchmarks.measure import interleave
from benchmarks.row import Row, ratio
from benchmarks.setting import generator, ghostnet
from tombola.export import compact
from tombola.masks import MaskSet
from tombola.pruning import prune
from tombola.scope import scope
from tombola.tickets import TicketModel


@torch.no_grad()
def compact_speedup(full: bool) -> list[Row]:
    net = ghostnet()
    layout = scope(net)
    whole, scores = torch.ones(layout.size, dtype=torch.bool), torch.rand(layout.size, generator=generator(1))
    mask = prune(whole, scores, layout.size // 4, layout, "uniform", granularity="channel", transposed={})
    tickets = TicketModel(net, MaskSet(layout, {"a": mask})).eval()
    x = torch.randn(64, 3, 32, 32, generator=generator())
    dense, small = tickets.bake("a").eval(), compact(tickets, "a", x[:1])
    times = interleave({"small": lambda: small(x), "dense": lambda: dense(x)}, 100 if full else 15)
    against = "dense GhostNet, batch 64; random channels, 75% in every layer"
    return [ratio("compact_speedup", times, "small", "dense", against, 0.5)]
