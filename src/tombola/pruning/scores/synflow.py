"""SynFlow: ``s = |θ| ⊙ ∂R/∂|θ|`` with ``R = 1ᵀ f(1; |θ|)``, without data (Tanaka et al., arXiv 2006.05467).

Every parameter is replaced by its absolute value, the input is all ones and R is the sum of the outputs. The
score of a weight is then the sum over all paths through it of the products of absolute weights, and every
layer has the same total, which keeps layers from being emptied when pruning goes in many rounds (the paper:
100, ``T = 0`` and a ``fraction`` schedule here; masks and weights are read afresh in each).

All is done in float64, as products over many layers leave the range of float32. Norm layers (batch, instance,
group, layer) pass their input on unchanged: their statistics are not of these inputs, and a norm would undo
the sums. Dropout is off. The meaning is that of networks whose layers between are ReLUs, pools and sums;
others (sines, signed products) are scored by the same equation, and there scores can be negative. All tickets
get equal scores where their weights are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch, call, mapped, part_of
from tombola._utils.errors import PruningError
from tombola.masks.layout import Layout
from tombola.masks.prunable import is_norm
from tombola.pruning.scores.criterion import PruningContext


def synaptic_flow(
    network: nn.Module, scope: Layout, example: Batch, read: Callable[[Any], Tensor] = part_of
) -> Tensor:
    """``|θ| ⊙ ∂R/∂|θ|`` of the weights in scope, float64 ``[N]``; the network is changed.

    Args:
        network: holds ``m ⊙ θ``.
        scope: the weights to score.
        example: an input; only its shape counts, and whether it holds floats.
        read: the part of the outputs that is summed.

    Raises:
        PruningError: the network does not take ones in float64.

    >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[1.0, -2.0]])), net[1].weight.fill_(-3.0)
    >>> synaptic_flow(net, Layout(("0.weight",), ((1, 2),)), torch.zeros(1, 2)).tolist()
    [3.0, 6.0]
    """
    network.double().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in scope.names)
            parameter.abs_()
    for layer in network.modules():
        if is_norm(layer):
            layer.register_forward_hook(lambda _, inputs, __: inputs[0])
    ones = mapped(
        lambda t: torch.ones_like(t, dtype=torch.float64 if t.is_floating_point() else None), example
    )
    parameters = dict(network.named_parameters())
    weights = [parameters[name] for name in scope.names]
    try:
        flow = read(call(network, ones)).sum()
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise PruningError(
            f"synflow cannot run this network on ones in float64 ({str(error).splitlines()[0]}): choose "
            "another score"
        ) from None
    gradients = torch.autograd.grad(flow, weights, allow_unused=True, materialize_grads=True)
    products = zip(scope.names, weights, gradients, strict=True)
    return scope.flatten({name: w.detach() * g for name, w, g in products})


def synflow(context: PruningContext) -> Tensor:
    """The synaptic flow through each weight of the ticket, float64 ``[N]``."""
    return synaptic_flow(context.network(), context.scope, context.example(), context.read)
