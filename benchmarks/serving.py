"""Changing the ticket at every call, and batches in which tickets are mixed."""

from __future__ import annotations

import copy
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from benchmarks.measure import interleave
from benchmarks.row import Row, milliseconds, ratio
from benchmarks.setting import generator, masks_of, mlp, tickets
from tombola.masks.prunable import scope
from tombola.tickets.cache import WeightCache
from tombola.tickets.model import TicketModel


@torch.no_grad()
def ticket_switch(full: bool) -> list[Row]:
    model = tickets()
    x = torch.randn(1, 3, 32, 32, generator=generator())
    baked = model.bake(model.names[0])
    turn = itertools.cycle(model.names)
    sides = {
        "changing": lambda: model(x, ticket=next(turn)),
        "one": lambda: model(x, ticket=model.names[0]),
        "baked": lambda: baked(x),
    }
    times = interleave(sides, 1000 if full else 40, warmup=5)
    low, high = times.spread("changing")
    note = (
        f"one pass, batch 1, another ticket every call; {milliseconds(times.median('one'))} with one ticket"
    )
    return [
        Row("ticket_switch_ms", times.median("changing") * 1e3, "ms", note, None, (low * 1e3, high * 1e3)),
        ratio("ticket_switch_vs_one_ticket", times, "changing", "one", "the same ticket every call"),
        ratio("ticket_switch_vs_baked", times, "changing", "baked", "the baked plain module"),
    ]


@torch.no_grad()
def switch_vs_pass(full: bool) -> list[Row]:
    """Writing another ticket into the memory that a pass reads, over one product of flat weights and mask."""
    rows = []
    for end, model in (("", tickets_of(mlp())), ("_ghostnet", tickets())):
        weights_N, mask_N = model.state(model.names[0])[:2]
        turn, numbers = itertools.cycle(model.names), itertools.cycle(range(len(model.names)))
        workspace = model.passes.ready(model, 0)
        parts = [workspace.replica.tree.tensors[name] for name in model.scope.names]
        cached = copy.deepcopy(model)
        cached.cache = WeightCache(model.masks_KN.numel() * weights_N.element_size())
        sides = {
            "switch": lambda model=model, k=numbers, w=workspace, p=parts: w.load(model, next(k), p),
            "cached": lambda cached=cached, turn=turn: cached.weights(next(turn)),
            "pass": lambda weights_N=weights_N, mask_N=mask_N: weights_N * mask_N,
        }
        times = interleave(sides, 500 if full else 100, warmup=2 * len(model.names))
        against = f"weights * mask, {weights_N.numel():,} weights"
        rows += [
            ratio(f"switch_vs_pass{end}", times, "switch", "pass", against, 1.5),
            ratio(f"switch_vs_pass{end}_cached", times, "cached", "pass", f"{against}; all tickets cached"),
        ]
    return rows


def tickets_of(net: nn.Module, K: int = 4) -> TicketModel:
    layout = scope(net)
    return TicketModel(net, masks_of(layout, torch.rand(K, layout.size, generator=generator()))).eval()


def threads(full: bool) -> list[Row]:
    """Another ticket written into the memory that a pass reads, over one product of flat weights and mask."""
    calls, model = 10_000 if full else 1_000, tickets_of(mlp())
    x = torch.randn(32, next(model.backbone.parameters()).shape[1], generator=generator())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        expected = {name: model.bake(name).eval()(x) for name in model.names}

    def ask(i: int) -> bool:
        with torch.no_grad():
            name = model.names[i % len(model.names)]
            return torch.equal(model(x, ticket=name), expected[name])

    def by(count: int) -> float:
        with ThreadPoolExecutor(count) as pool:
            start = time.perf_counter()
            wrong = calls - sum(pool.map(ask, range(calls)))
        moved = sum(not torch.equal(t, before[name]) for name, t in model.state_dict().items())
        if wrong or moved:
            raise RuntimeError(f"{wrong} answers are wrong, {moved} tensors have moved")
        return time.perf_counter() - start

    several, _, one = by(8), by(8), by(1)
    note = f"one thread, {calls:,} calls of batch 32, four tickets, none wrong, no bit moved"
    return [Row("threads_8", several / one, "×", f"{note} ({several:.1f} over {one:.1f} s)")]


@torch.no_grad()
def mixed_batch(full: bool) -> list[Row]:
    model = tickets()
    x = torch.randn(256, 3, 32, 32, generator=generator())
    where = torch.randint(len(model.names), (256,), generator=generator(4))
    names = [model.names[k] for k in where.tolist()]
    parts = {name: x[where == k] for k, name in enumerate(model.names)}
    samples = list(zip(x.split(1), names, strict=True))
    sides = {
        "mixed": lambda: model(x, ticket=names),
        "calls": lambda: [model(part, ticket=name) for name, part in parts.items()],
        "samples": lambda: [model(sample, ticket=name) for sample, name in samples],
    }
    sides["mixed"]()  # a warm-up for all: 256 calls more would take seconds
    times = interleave(sides, 20 if full else 2, warmup=0)
    return [
        ratio("mixed_batch", times, "mixed", "samples", "256 calls, each with the mask of its sample", 0.5),
        ratio("mixed_batch_vs_calls", times, "mixed", "calls", "ten calls of one ticket, the same samples"),
    ]
