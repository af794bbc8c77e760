"""A ticket of channels as a smaller dense network.

A mask that keeps whole output channels leaves channels that no input reaches. What they contribute to the
next layer is a constant (a norm's shift, and what padding makes of it), which moves into that layer's bias;
then they are taken out of every layer that holds them. Weights that are zero one by one are not removed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from tombola._utils.errors import TombolaError
from tombola.tickets.export.channel_graph import ChannelGraph, Channels, Layer
from tombola.tickets.export.files import whole_channels
from tombola.tickets.model import TicketModel

SIZES = (0.25, 0.5, 1.5)  # of the guessed input: where constants are tried as well


def compact(tickets: TicketModel, ticket: str, example: Tensor | None = None) -> nn.Module:
    """A plain dense copy of the network without the channels that are dead in a ticket; outputs are equal.

    Args:
        tickets: the network, on the CPU; its forward pass must be traceable by ``torch.fx``.
        ticket: the name of a ticket, found with the granularity ``channel``.
        example: an input ``[B, ...]`` of the size that will be used. With it, constants that differ from
            place to place (padding round a constant channel) are folded too, as maps of that size. Without it
            the copy serves all sizes, and keeps such channels; the input is guessed from the first layer.

    Channels stay where something unknown is done to them: grouped (not depthwise) and transposed
    convolutions, group and layer norms, attention, reshaping other than flattening, layers called twice.

    Returns:
        The network in evaluation mode: same classes, smaller weights.

    A warning says so where channels are dead and none could be taken out.

    Raises:
        TombolaError: the network cannot be traced, does not take the example, or the copy's outputs differ (a
            network that counts on its numbers of channels in a way that is not seen).

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> from tombola.masks.layout import Layout
    >>> from tombola.masks.maskset import MaskSet
    >>> half = torch.tensor([[1.0], [0.0], [1.0], [0.0]]).expand(4, 3).flatten() > 0
    >>> compact(TicketModel(net, MaskSet(Layout(("0.weight",), ((4, 3),)), {"a": half})), "a")[0]
    Linear(in_features=3, out_features=2, bias=True)
    """
    module = tickets.bake(ticket).eval().requires_grad_(False)
    trained = {name: p.requires_grad for name, p in tickets.backbone.named_parameters()}
    before, mask_N = _size(module), tickets.masks[ticket]
    x = guessed(module) if example is None else example
    with torch.no_grad():
        expected = _outputs(module, x)
        _shrink(module, x, maps=example is not None)
        _compare(module, expected, x, ticket)
    if _size(module) == before and not bool(mask_N.all()) and whole_channels(tickets.scope, mask_N):
        warnings.warn(
            f"ticket {ticket!r} has dead channels, and none could be taken out: see tombola.export.compact "
            "for what must stay",
            stacklevel=2,
        )
    for name, p in module.named_parameters():
        p.requires_grad_(trained.get(name, True))
    return module


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _outputs(module: nn.Module, x: Tensor) -> object:
    try:
        return module(x.clone())
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise TombolaError(
            f"the network does not take inputs {list(x.shape)} of {x.dtype} ({str(error).splitlines()[0]}): "
            "pass an example of the inputs that it will have (example=, --shape)"
        ) from None


def _shrink(module: nn.Module, x: Tensor, maps: bool) -> None:
    try:
        graph = fx.symbolic_trace(module)
    except Exception as error:  # whatever the forward pass of a stranger raises under tracing
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TombolaError(f"{type(module).__name__} cannot be traced by torch.fx: {first}") from None
    channels = ChannelGraph(graph, module)
    channels.run(x.clone())
    others = [] if maps else _at_other_sizes(graph, module, x)
    extra = [_fold(layer, maps, [o[i] for o in others]) for i, layer in enumerate(channels.layers)]
    kept = _needed(channels)

    def keep(part: Channels) -> Tensor:
        return torch.tensor([i for i, number in enumerate(part.ids) if channels.together[number] in kept])

    for norm, passing in channels.norms:
        _cut_norm(norm, keep(passing))
    for layer, constant in zip(channels.layers, extra, strict=True):
        _cut_layer(module, layer, keep(layer.ins), keep(layer.outs), constant)


def _needed(channels: ChannelGraph) -> set[int]:
    find = channels.together.__getitem__
    kept = {find(i) for i in channels.pinned}
    for layer in channels.layers:
        if not layer.depthwise:
            read = (getattr(layer.owner, layer.weight) != 0).transpose(0, 1).flatten(1).any(1)
            kept |= {find(i) for i, used in zip(layer.ins.ids, read.tolist(), strict=True) if used}
    for part in (part for layer in channels.layers for part in (layer.outs, layer.ins)):
        if not any(find(i) in kept for i in part.ids):
            kept.add(find(part.ids[0]))  # no layer without channels
    return kept


# -- constants of dead channels, moved into the bias of the layer that reads them ----------------------------


def _at_other_sizes(graph: fx.GraphModule, module: nn.Module, x: Tensor) -> list[list[Layer]]:
    """The same layers at other sizes: what padding does to a constant, and pooled means, differ there."""
    found = []
    for share in SIZES:
        other = ChannelGraph(graph, module)
        with suppress(RuntimeError):  # too small, or a network for inputs of one size
            other.run(x.new_zeros(*x.shape[:2], *(int(share * n) for n in x.shape[2:])))
            found.append(other.layers)
    return found


def _fold(layer: Layer, maps: bool, others: Sequence[Layer]) -> Tensor | None:
    if layer.depthwise or layer.bias is None or not bool(layer.ins.constant.any()):
        return None
    constant = layer.ins.constant.clone()
    if not maps:
        padding = getattr(layer.module, "padding", ())
        padded = padding != "valid" if isinstance(padding, str) else any(padding)
        here = layer.x.transpose(0, 1).flatten(1)
        value = torch.zeros_like(here[:, :1]) if padded else here[:, :1]
        constant &= (here == value).all(1)
        for other in others:
            there = other.x.transpose(0, 1).flatten(1)
            constant &= torch.isclose(there, value, rtol=1e-5, atol=1e-7).all(1)
    alone, weight = layer.x[:1].clone(), getattr(layer.owner, layer.weight)
    alone[:, ~constant] = 0
    if layer.module is not None:
        whole = layer.module(alone)  # [1, O, ...], the bias in it
    else:
        whole = F.linear(alone, weight, getattr(layer.owner, layer.bias))
    weight.data[:, constant] = 0
    flat = whole[0].flatten(1) if whole.dim() > 2 else whole[0][:, None]
    if torch.equal(flat, flat[:, :1].expand_as(flat)):
        setattr(layer.owner, layer.bias, nn.Parameter(flat[:, 0].clone(), requires_grad=False))
        return None
    setattr(layer.owner, layer.bias, None)
    constants: Tensor = whole[0]
    return constants


# -- cutting ----------------------------------------------------------------------------------------------


def _cut_norm(norm: nn.Module, keep: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _replace(norm, name, lambda t: t[keep])
    norm.num_features = len(keep)  # type: ignore[assignment]


def _cut_layer(root: nn.Module, layer: Layer, ins: Tensor, outs: Tensor, extra: Tensor | None) -> None:
    module: nn.Module | None = layer.module
    _replace(layer.owner, layer.weight, lambda t: t[outs] if layer.depthwise else t[outs][:, ins])
    if layer.bias is not None:
        _replace(layer.owner, layer.bias, lambda t: t[outs])
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = len(ins), len(outs)
    elif module is not None:
        module.in_channels, module.out_channels = len(ins), len(outs)  # type: ignore[assignment]
        if layer.depthwise:
            module.groups = len(outs)  # type: ignore[assignment]
        if extra is not None:
            name = next(name for name, m in root.named_modules() if m is module)
            root.set_submodule(name, WithMap(module, extra[outs]))


def _replace(owner: nn.Module, name: str, cut: Callable[[Tensor], Tensor]) -> None:
    t = getattr(owner, name, None)
    if t is not None:
        new = cut(t.detach()).clone()
        setattr(owner, name, nn.Parameter(new, requires_grad=False) if isinstance(t, nn.Parameter) else new)


class WithMap(nn.Module):
    """A convolution, and a constant ``[C, ...]`` that differs from place to place."""

    map: Tensor

    def __init__(self, conv: nn.Module, values: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("map", values.clone())

    def forward(self, x: Tensor) -> Tensor:
        """The output plus the constant; the size must be the one that it was made for."""
        return self.conv(x) + self.map


def guessed(module: nn.Module) -> Tensor:
    """A random input of two samples for the first convolution or linear layer; images are 32 wide."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            shape = [m.in_features]
        elif isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            shape = [m.in_channels, *[32] * len(m.kernel_size)]
        else:
            continue
        return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(m.weight.dtype)
    raise TombolaError("the network has no convolution or linear layer: pass an example input")


def _compare(module: nn.Module, expected: object, x: Tensor, ticket: str) -> None:
    try:
        found = module(x.clone())
    except RuntimeError as error:
        raise TombolaError(
            f"ticket {ticket!r} cannot be made compact, for the network counts on its numbers of channels: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        raise TombolaError("a compact network must give one tensor, of the shape that the network gives")
    furthest = float((found - expected).abs().max())
    if not furthest <= 1e-5 * max(1.0, float(expected.abs().max())):
        raise TombolaError(f"the compact form of ticket {ticket!r} differs from it by {furthest:.2g}")
