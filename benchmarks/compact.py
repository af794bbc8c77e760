"""Tickets of channels as smaller networks, over the dense ones: in torch, and in onnxruntime."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from benchmarks.measure import Side, interleave
from benchmarks.resnet import ResNet20
from benchmarks.row import Row, ratio
from benchmarks.setting import generator, ghostnet
from tombola._utils.errors import MissingExtra
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.pruning import prune
from tombola.tickets.export import compact, write_program
from tombola.tickets.model import TicketModel

TARGET = 0.5


class Pair(NamedTuple):
    """A dense network, its compact form, and a batch for both."""

    end: str  # of the names of its rows
    what: str
    dense: nn.Module
    small: nn.Module
    x: Tensor
    target: float | None


@torch.no_grad()
def compact_speedup(full: bool) -> list[Row]:
    rows = []
    for end, what, dense, small, x, target in pairs(full):
        sides = {"small": on(small, x), "dense": on(dense, x)}
        sides |= {"small_folded": on(folded(small), x), "dense_folded": on(folded(dense), x)}
        times = interleave(sides, 50 if full else 7)
        share = operations(small, x) / operations(dense, x)
        against = f"dense {what}; random channels, 75% in every layer: {share:.2f} of the products"
        rows += [
            ratio(f"compact_speedup{end}", times, "small", "dense", against, target),
            ratio(
                f"compact_speedup{end}_folded", times, "small_folded", "dense_folded", "norms folded in both"
            ),
        ]
    return rows


@torch.no_grad()
def compact_speedup_onnx(full: bool) -> list[Row]:
    """Both networks in onnxruntime; no rows without the extra."""
    rows = []
    for end, what, dense, small, x, target in pairs(full):
        try:
            sides = {"small": onnx(small, x), "dense": onnx(dense, x), "torch": on(dense, x)}
        except MissingExtra as error:
            print(f"compact_speedup_onnx: {error}")
            return []
        times = interleave(sides, 50 if full else 7)
        rows += [
            ratio(f"compact_speedup_onnx{end}", times, "small", "dense", f"dense {what}", target),
            ratio(f"compact_speedup_onnx{end}_vs_torch", times, "small", "torch", f"dense {what}, in torch"),
        ]
    return rows


def pairs(full: bool) -> Iterator[Pair]:
    """A ResNet four times as wide as usual, GhostNet, and, in a full run, a ResNet of the usual width."""
    yield _pair("", "ResNet-20, 64 to 256 channels", ResNet20(64, generator()), 16, TARGET)
    yield _pair("_ghostnet", "GhostNet", ghostnet(), 64)
    if full:
        yield _pair("_narrow", "ResNet-20, 16 to 64 channels", ResNet20(16, generator()), 64)


def _pair(end: str, what: str, net: nn.Module, batch: int, target: float | None = None) -> Pair:
    """The network under a ticket that keeps a quarter of the channels of each layer, and its compact form."""
    x = torch.randn(batch, 3, 32, 32, generator=generator())
    layout = scope(net)
    whole, scores = torch.ones(layout.size, dtype=torch.bool), torch.rand(layout.size, generator=generator(1))
    mask = prune(whole, scores, layout.size // 4, layout, "uniform", granularity="channel", transposed={})
    tickets = TicketModel(net, MaskSet(layout, {"a": mask})).eval()
    dense, small = tickets.bake("a").eval(), compact(tickets, "a", x[:1]).eval()
    return Pair(end, f"{what}, batch {batch}", dense, small, x, target)


def on(net: nn.Module, x: Tensor) -> Side:
    return lambda: net(x)


def folded(net: nn.Module) -> nn.Module:
    """Norms multiplied into the convolutions before them."""
    return fuse(copy.deepcopy(net))


def operations(net: nn.Module, x: Tensor) -> int:
    """Multiplications in convolutions, for one sample."""
    counts: list[int] = []

    def count(conv: nn.Module, _: object, y: Tensor) -> None:
        counts.append(conv.weight.numel() * y[0, 0].numel())  # type: ignore[operator]

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    net(x[:1])
    for hook in hooks:
        hook.remove()
    return sum(counts)


def onnx(net: nn.Module, x: Tensor) -> Side:
    """The network in onnxruntime, with as many threads as torch has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_program(path, net, "onnx", x[:2])
        content = path.read_bytes()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, inputs)
