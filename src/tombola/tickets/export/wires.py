"""Channels of a network as wires: which ones go together, and which ones no input reaches.

Every channel of every tensor is a wire. An elementwise sum ties the wires of its terms, for all of them
must keep the same channels; a convolution ends its input's wires and begins new ones. A wire is *constant*
if no input reaches it: its weights are zero where it reads wires that inputs reach. What an operation does
that is not known here stays as it is: its wires are pinned.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Every channel by itself, and never one place of it by another unless all places of it are alike.
_ALIKE_MODULES = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.ELU),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Mish, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d),
)
_ALIKE = {
    *("relu", "relu6", "leaky_relu", "gelu", "silu", "sigmoid", "tanh", "elu", "hardswish", "hardsigmoid"),
    *("hardtanh", "dropout", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d"),
    *("adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "contiguous", "clone", "relu_", "float"),
}
_SUMS = {"add", "iadd", "sub", "isub", "add_", "sub_"}
_PRODUCTS = {"mul", "imul", "mul_"}


@dataclass(frozen=True)
class ChannelGraph:
    """The channels (dimension 1) of one tensor: their numbers, and which are constant, boolean ``[C]``."""

    ids: list[int]
    constant: Tensor


@dataclass(frozen=True)
class Layer:
    """A convolution or linear map as it was met: where its weights are, and its wires."""

    owner: nn.Module
    weight: str  # attribute names
    bias: str | None
    module: nn.Module | None  # None: a function of parameters
    x: Tensor
    ins: ChannelGraph
    outs: ChannelGraph
    depthwise: bool = False


class Tracer(fx.Interpreter):
    """Runs a traced network once and follows its wires."""

    def __init__(self, graph_module: fx.GraphModule, root: nn.Module) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.root = root  # the network itself: torch.fx holds copies of what owns parameters
        self.layers: list[Layer] = []
        self.norms: list[tuple[nn.Module, ChannelGraph]] = []
        self.pinned: set[int] = set()
        self.parents: list[int] = []
        self.channels: dict[fx.Node, ChannelGraph] = {}
        calls = [n.target for n in graph_module.graph.nodes if n.op in ("call_module", "get_attr")]
        self.shared = {target for target in calls if calls.count(target) > 1}  # a cut must suit one place

    # -- sets of wires that go together -------------------------------------------------------------

    def find(self, i: int) -> int:
        """The number of the set that wire i is in."""
        while self.parents[i] != i:
            self.parents[i] = i = self.parents[self.parents[i]]
        return i

    def tie(self, a: Sequence[int], b: Sequence[int]) -> None:
        """ChannelGraph that are kept or removed together."""
        for i, j in zip(a, b, strict=True):
            self.parents[self.find(i)] = self.find(j)

    def new(self, value: Any, constant: Tensor | None = None) -> ChannelGraph | None:
        """New wires for the channels of a tensor."""
        if not isinstance(value, Tensor) or value.dim() < 2:
            return None
        start, C = len(self.parents), value.shape[1]
        self.parents.extend(range(start, start + C))
        constant = torch.zeros(C, dtype=torch.bool) if constant is None else constant
        return ChannelGraph(list(range(start, start + C)), constant)

    def pin(self, channels: ChannelGraph | None) -> None:
        """Keep all of these wires."""
        self.pinned |= set(channels.ids if channels else ())

    # -- one operation ------------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation, then follow the wires through it."""
        value = super().run_node(n)
        found = self._follow(n, value) if n.op in ("call_module", "call_function", "call_method") else None
        if found is None and n.op != "get_attr":  # unknown, an input, or the output
            plain = isinstance(value, int | float | bool | torch.Size | torch.dtype | torch.device)
            for source in [] if plain else n.all_input_nodes:
                self.pin(self.channels.get(source))
            found = self.new(value)
            self.pin(found)
        if found is not None:
            self.channels[n] = found
        return value

    def _follow(self, n: fx.Node, value: Any) -> ChannelGraph | None:
        first = n.args[0] if n.args else None
        channels = self.channels.get(first) if isinstance(first, fx.Node) else None
        if n.op == "call_module":
            module = self.root.get_submodule(str(n.target))
            own = n.target not in self.shared or isinstance(module, _ALIKE_MODULES)
            known = channels is not None and isinstance(value, Tensor) and own
            return self._module(module, self.env_of(first), channels, value) if known and channels else None
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        if n.target is F.linear and channels is not None:
            return self._linear(n, channels, value)
        if name == "cat":
            return self._cat(n)
        if name in _SUMS | _PRODUCTS:
            return self._pair(n, value, name in _PRODUCTS)
        if channels is None or not isinstance(value, Tensor):
            return None
        same = value.dim() > 1 and value.shape[1] == len(channels.ids)
        if name in _ALIKE and same:
            return channels
        x = self.env_of(first)
        if name == "mean" and same and _spatial(n, x):
            return channels
        if name in ("flatten", "view", "reshape"):
            return _flattened(x, channels, value)
        if n.target is operator.getitem and isinstance(n.args[1], tuple):
            return self._slice(n.args[1], channels)
        return None

    def env_of(self, node: Any) -> Tensor:
        """The tensor that a node gave."""
        value = self.env[node]
        assert isinstance(value, Tensor)
        return value

    def _module(self, m: nn.Module, x: Tensor, channels: ChannelGraph, value: Tensor) -> ChannelGraph | None:
        if isinstance(m, _NORMS) and m.running_mean is not None:
            self.norms.append((m, channels))
            return channels
        if isinstance(m, _ALIKE_MODULES) and value.dim() > 1 and value.shape[1] == len(channels.ids):
            return channels
        if isinstance(m, nn.Flatten):
            return _flattened(x, channels, value)
        plain_linear = isinstance(m, nn.Linear) and x.dim() == 2
        if (isinstance(m, _CONVS) and m.padding_mode == "zeros") or plain_linear:
            groups = getattr(m, "groups", 1)
            depthwise = bool(groups > 1 and len(m.weight) == groups == len(channels.ids))  # type: ignore[arg-type]
            if groups > 1 and not depthwise:
                return None
            return self._layer(value, m, "weight", "bias", m, x.clone(), channels, depthwise)
        return None

    def _linear(self, n: fx.Node, channels: ChannelGraph, value: Tensor) -> ChannelGraph | None:
        names = [a for a in (*n.args[1:], *n.kwargs.values()) if a is not None]
        own = [
            a for a in names if isinstance(a, fx.Node) and a.op == "get_attr" and a.target not in self.shared
        ]
        x = self.env_of(n.args[0])
        if x.dim() != 2 or not names or len(own) < len(names):
            return None
        owner, weight = _attribute(self.root, names[0])
        bias = _attribute(self.root, names[1])[1] if len(names) > 1 else None
        return self._layer(value, owner, weight, bias, None, x.clone(), channels)

    def _layer(
        self,
        value: Tensor,
        owner: nn.Module,
        weight: str,
        bias: str | None,
        module: nn.Module | None,
        x: Tensor,
        ins: ChannelGraph,
        depthwise: bool = False,
    ) -> ChannelGraph | None:
        """Keep a layer (`Layer`) that gives this value; returns the wires that it begins."""
        zero = getattr(owner, weight) == 0
        if depthwise:
            constant = ins.constant | zero.flatten(1).all(1)
        else:
            constant = zero[:, ~ins.constant].flatten(1).all(1)
        outs = self.new(value, constant)
        if outs is None:
            return None
        if depthwise:
            self.tie(ins.ids, outs.ids)
        self.layers.append(Layer(owner, weight, bias, module, x, ins, outs, depthwise))
        return outs

    def _cat(self, n: fx.Node) -> ChannelGraph | None:
        if not n.args:  # by keyword alone
            return None
        dim = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)
        parts = [self.channels.get(node) for node in n.all_input_nodes]
        known = [p for p in parts if p is not None]
        if dim != 1 or not isinstance(n.args[0], list | tuple) or len(known) != len(n.args[0]):
            return None
        return ChannelGraph([i for p in known for i in p.ids], torch.cat([p.constant for p in known]))

    def _pair(self, n: fx.Node, value: Tensor, product: bool) -> ChannelGraph | None:
        a, b = (*n.args, None, None)[:2]
        if isinstance(a, int | float):
            a, b = b, a
        left = self.channels.get(a) if isinstance(a, fx.Node) else None
        if left is None or value.dim() < 2 or value.shape[1] != len(left.ids) or n.kwargs:
            return None
        if isinstance(b, int | float):
            return left
        right = self.channels.get(b) if isinstance(b, fx.Node) else None
        if right is None or len(right.ids) != len(left.ids) or self.env_of(a).dim() != self.env_of(b).dim():
            return None
        constant = left.constant & right.constant
        if product:
            for side, channels in ((a, left), (b, right)):
                zero = (self.env_of(side).transpose(0, 1).flatten(1) == 0).all(1)
                constant = constant | (channels.constant & zero)
        self.tie(left.ids, right.ids)
        return ChannelGraph(left.ids, constant)

    def _slice(self, index: tuple[Any, ...], channels: ChannelGraph) -> ChannelGraph | None:
        if len(index) < 2 or any(i not in (slice(None), None) for i in (index[0], *index[2:])):
            return None
        if not isinstance(index[1], slice) or index[0] is None:
            return None
        if any(isinstance(end, fx.Node) for end in (index[1].start, index[1].stop, index[1].step)):
            return None  # an end that is computed
        return ChannelGraph(channels.ids[index[1]], channels.constant[index[1]])


def _flattened(x: Tensor, channels: ChannelGraph, value: Tensor) -> ChannelGraph | None:
    """Rows ``[B, C · places]`` of samples; None where it is another reshaping."""
    if value.dim() != 2 or value.shape[0] != x.shape[0] or value.numel() != x.numel():
        return None
    repeat = value.shape[1] // len(channels.ids)
    ids = [i for i in channels.ids for _ in range(repeat)]
    return ChannelGraph(ids, channels.constant.repeat_interleave(repeat))


def _spatial(n: fx.Node, x: Tensor) -> bool:
    """Whether a mean is over other dimensions than samples and channels."""
    dims: Any = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
    dims = dims if isinstance(dims, list | tuple) else [dims]
    return all(isinstance(d, int) and d % x.dim() >= 2 for d in dims)


def _attribute(module: nn.Module, node: Any) -> tuple[nn.Module, str]:
    path, _, name = str(node.target).rpartition(".")
    return module.get_submodule(path), name
