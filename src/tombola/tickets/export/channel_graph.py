"""The channels of a network: which ones go together, and which ones no input reaches.

Every channel of every tensor has a number. An elementwise sum ties the channels of its terms, for all of them
must keep the same ones; a convolution ends its input's channels and begins new ones. A channel is *constant*
if no input reaches it: its weights are zero where it reads channels that inputs reach. What an operation does
that is not known here stays as it is: its channels are pinned.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from scipy.cluster.hierarchy import DisjointSet
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
class Channels:
    """Numbers of the channels (dimension 1) of one tensor, and which are constant, boolean ``[C]``."""

    ids: list[int]
    constant: Tensor


@dataclass(frozen=True)
class Layer:
    """A convolution or linear map as it was met: where its weights are, its input, and its channels."""

    owner: nn.Module
    weight: str  # attribute names
    bias: str | None
    module: nn.Module | None  # None: a function of parameters
    x: Tensor
    ins: Channels
    outs: Channels
    depthwise: bool = False


class ChannelGraph(fx.Interpreter):
    """Runs a traced network once and follows its channels.

    ``layers`` and ``norms`` are as they were met, ``pinned`` channels must stay, and those in one set of
    ``together`` are kept or removed together.
    """

    def __init__(self, graph_module: fx.GraphModule, root: nn.Module) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.root = root  # the network itself: torch.fx holds copies of what owns parameters
        self.layers: list[Layer] = []
        self.norms: list[tuple[nn.Module, Channels]] = []
        self.pinned: set[int] = set()
        self.together = DisjointSet()
        self._channels: dict[fx.Node, Channels] = {}
        calls = [n.target for n in graph_module.graph.nodes if n.op in ("call_module", "get_attr")]
        self._shared = {target for target in calls if calls.count(target) > 1}  # a cut must suit one place

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation, then follow the channels through it."""
        value = super().run_node(n)
        found = self._follow(n, value) if n.op in ("call_module", "call_function", "call_method") else None
        if found is None and n.op != "get_attr":  # unknown, an input, or the output
            plain = isinstance(value, int | float | bool | torch.Size | torch.dtype | torch.device)
            for source in [] if plain else n.all_input_nodes:
                self._pin(self._channels.get(source))
            found = self._new(value)
            self._pin(found)
        if found is not None:
            self._channels[n] = found
        return value

    def _new(self, value: Any, constant: Tensor | None = None) -> Channels | None:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return None
        start, C = len(self.together), value.shape[1]
        ids = list(range(start, start + C))
        for i in ids:
            self.together.add(i)
        return Channels(ids, torch.zeros(C, dtype=torch.bool) if constant is None else constant)

    def _pin(self, channels: Channels | None) -> None:
        self.pinned |= set(channels.ids if channels else ())

    def _tie(self, a: Channels, b: Channels) -> None:
        for i, j in zip(a.ids, b.ids, strict=True):
            self.together.merge(i, j)

    def _of(self, node: Any) -> Channels | None:
        return self._channels.get(node) if isinstance(node, fx.Node) else None

    # -- what an operation does to channels; None where that is not known ---------------------------

    def _follow(self, n: fx.Node, value: Any) -> Channels | None:
        first: Any = n.args[0] if n.args else None
        channels = self._of(first)
        if n.op == "call_module":
            module = self.root.get_submodule(str(n.target))
            own = n.target not in self._shared or isinstance(module, _ALIKE_MODULES)
            known = channels is not None and isinstance(value, Tensor) and own
            return self._module(module, self.env[first], channels, value) if known and channels else None
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
        x = self.env[first]
        if same and (name in _ALIKE or (name == "mean" and _spatial(n, x))):
            return channels
        if name in ("flatten", "view", "reshape"):
            return _flattened(x, channels, value)
        if n.target is operator.getitem and isinstance(n.args[1], tuple):
            return _sliced(n.args[1], channels)
        return None

    def _module(self, m: nn.Module, x: Tensor, channels: Channels, value: Tensor) -> Channels | None:
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

    def _linear(self, n: fx.Node, channels: Channels, value: Tensor) -> Channels | None:
        given = [a for a in (*n.args[1:], *n.kwargs.values()) if a is not None]
        own = [a for a in given if isinstance(a, fx.Node) and a.op == "get_attr"]
        x = self.env[n.args[0]]  # type: ignore[index]
        if x.dim() != 2 or not given or len(own) < len(given) or any(a.target in self._shared for a in own):
            return None
        (path, _, weight), *more = (str(a.target).rpartition(".") for a in own)
        bias = more[0][2] if more else None
        return self._layer(value, self.root.get_submodule(path), weight, bias, None, x.clone(), channels)

    def _layer(
        self,
        value: Tensor,
        owner: nn.Module,
        weight: str,
        bias: str | None,
        module: nn.Module | None,
        x: Tensor,
        ins: Channels,
        depthwise: bool = False,
    ) -> Channels | None:
        zero = getattr(owner, weight) == 0
        if depthwise:
            constant = ins.constant | zero.flatten(1).all(1)
        else:
            constant = zero[:, ~ins.constant].flatten(1).all(1)
        outs = self._new(value, constant)
        if outs is None:
            return None
        if depthwise:
            self._tie(ins, outs)
        self.layers.append(Layer(owner, weight, bias, module, x, ins, outs, depthwise))
        return outs

    def _cat(self, n: fx.Node) -> Channels | None:
        if not n.args:  # by keyword alone
            return None
        dim = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)
        known = [p for node in n.all_input_nodes if (p := self._of(node)) is not None]
        if dim != 1 or not isinstance(n.args[0], list | tuple) or len(known) != len(n.args[0]):
            return None
        return Channels([i for p in known for i in p.ids], torch.cat([p.constant for p in known]))

    def _pair(self, n: fx.Node, value: Tensor, product: bool) -> Channels | None:
        a, b = (*n.args, None, None)[:2]
        if isinstance(a, int | float):
            a, b = b, a
        left, right = self._of(a), self._of(b)
        if left is None or value.dim() < 2 or value.shape[1] != len(left.ids) or n.kwargs:
            return None
        if isinstance(b, int | float):
            return left
        if right is None or len(right.ids) != len(left.ids):
            return None
        x, y = self.env[a], self.env[b]  # type: ignore[index]
        if x.dim() != y.dim():
            return None
        constant = left.constant & right.constant
        if product:
            for side, channels in ((x, left), (y, right)):
                constant = constant | (channels.constant & (side.transpose(0, 1).flatten(1) == 0).all(1))
        self._tie(left, right)
        return Channels(left.ids, constant)


def _sliced(index: tuple[Any, ...], channels: Channels) -> Channels | None:
    if len(index) < 2 or any(i not in (slice(None), None) for i in (index[0], *index[2:])):
        return None
    if not isinstance(index[1], slice) or index[0] is None:
        return None
    if any(isinstance(end, fx.Node) for end in (index[1].start, index[1].stop, index[1].step)):
        return None  # an end that is computed
    return Channels(channels.ids[index[1]], channels.constant[index[1]])


def _flattened(x: Tensor, channels: Channels, value: Tensor) -> Channels | None:
    if value.dim() != 2 or value.shape[0] != x.shape[0] or value.numel() != x.numel():
        return None
    repeat = value.shape[1] // len(channels.ids)
    ids = [i for i in channels.ids for _ in range(repeat)]
    return Channels(ids, channels.constant.repeat_interleave(repeat))


def _spatial(n: fx.Node, x: Tensor) -> bool:
    dims: Any = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
    dims = dims if isinstance(dims, list | tuple) else [dims]
    return all(isinstance(d, int) and d % x.dim() >= 2 for d in dims)
