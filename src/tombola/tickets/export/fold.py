"""Constants of dead channels, moved into the bias of the layer that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from tombola.tickets.export.wires import Layer, Tracer

SIZES = (0.25, 0.5, 1.5)  # of the guessed input: where constants are tried as well


def at_other_sizes(graph: fx.GraphModule, module: nn.Module, x: Tensor) -> list[list[Layer]]:
    """The same layers for smaller and larger inputs: only what is the same there is a constant.

    What padding does to a constant differs at the border, and its pooled mean with the size.
    """
    found = []
    for share in SIZES:
        other = Tracer(graph, module)
        with suppress(RuntimeError):  # too small, or a network for inputs of one size
            other.run(x.new_zeros(*x.shape[:2], *(int(share * n) for n in x.shape[2:])))
            found.append(other.layers)
    return found


def fold(layer: Layer, maps: bool, others: Sequence[Layer]) -> Tensor | None:
    """Move what constant inputs contribute into the bias; returns what differs from place to place."""
    if layer.depthwise or layer.bias is None or not bool(layer.ins.constant.any()):
        return None
    constant = layer.ins.constant.clone()
    if not maps:
        padded = layer.module is not None and any(p != 0 for p in _padding(layer.module))
        here = layer.x.transpose(0, 1).flatten(1)
        value = torch.zeros_like(here[:, :1]) if padded else here[:, :1]
        constant &= (here == value).all(1)
        for other in others:
            there = other.x.transpose(0, 1).flatten(1)
            constant &= torch.isclose(there, value, rtol=1e-5, atol=1e-7).all(1)
    alone = layer.x[:1].clone()
    alone[:, ~constant] = 0
    whole = _apply(layer, alone)  # [1, O, ...], the bias in it
    weight = getattr(layer.owner, layer.weight)
    weight.data[:, constant] = 0
    flat = whole[0].flatten(1) if whole.dim() > 2 else whole[0][:, None]
    if torch.equal(flat, flat[:, :1].expand_as(flat)):
        _set_bias(layer, flat[:, 0])
        return None
    _set_bias(layer, None)
    return whole[0]


def _apply(layer: Layer, x: Tensor) -> Tensor:
    if layer.module is not None:
        value: Tensor = layer.module(x)
        return value
    bias = getattr(layer.owner, layer.bias) if layer.bias else None
    return F.linear(x, getattr(layer.owner, layer.weight), bias)


def _padding(module: nn.Module) -> tuple[int, ...]:
    padding = getattr(module, "padding", 0)
    if isinstance(padding, str):
        return (0,) if padding == "valid" else (1,)
    return (padding,) if isinstance(padding, int) else tuple(padding)


def _set_bias(layer: Layer, value: Tensor | None) -> None:
    name = layer.bias
    assert name is not None
    setattr(layer.owner, name, None if value is None else nn.Parameter(value.clone(), requires_grad=False))
