"""Gamma: ``s = |γ_c|``, the scale of the batch norm behind output channel c (Liu et al., arXiv 1708.06519).

What Early-Bird draws its channel masks by (arXiv 1909.11957). All weights of a channel have the score of the
channel, so it belongs with granularity ``channel``. Both papers push scales towards zero with an L1 penalty
while they train; here the loss is the one of training. It is meant for trained networks: scales begin at one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tombola._utils.batch import call
from tombola._utils.errors import PruningError
from tombola.masks.layout import Layout
from tombola.pruning.granularity import Channel, members, transposed
from tombola.pruning.scores.criterion import PruningContext
from tombola.pruning.scores.wanda import LINEAR


class _Follow(TorchFunctionMode):
    """Finds the scale that each weight's output is multiplied with, while a network runs once."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(weight): name for name, weight in weights.items()}
        self.outputs: list[tuple[Tensor, str]] = []  # the tensors themselves: ids of dead ones come again
        self.scales: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        places = ("input", "running_mean", "running_var", "weight")
        named = dict(zip(places, args, strict=False)) | (kwargs or {})
        if func in LINEAR and len(args) > 1 and id(args[1]) in self.names:
            self.outputs.append((result, self.names[id(args[1])]))
        elif func is F.batch_norm and isinstance(named.get("weight"), Tensor):
            for output, name in self.outputs:
                if output is named["input"]:
                    self.scales[name] = named["weight"]
        return result


def channel_scales(network: nn.Module, scope: Layout, example: Tensor) -> Tensor:
    """``|γ|`` of the output channel of every weight, ``[N]``; the network is run once, in evaluation mode.

    Raises:
        PruningError: a layer in scope has no batch norm with a scale directly behind it.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([-3.0, 0.5]))
    >>> channel_scales(net, Layout(("0.weight",), ((2, 1, 1, 1),)), torch.zeros(1, 1, 2, 2)).tolist()
    [3.0, 0.5]
    """
    parameters = dict(network.eval().named_parameters())
    follow = _Follow({name: parameters[name] for name in scope.names})
    with torch.no_grad(), follow:
        call(network, example)
    bare = [name for name in scope.names if name not in follow.scales]
    if bare:
        raise PruningError(
            f"gamma needs a batch norm with a scale behind every layer in scope, {', '.join(bare)} has none: "
            "exclude it, or choose another score"
        )
    found, groups = [], members(Channel(), scope, transposed(network))
    for name, size, at_Cs in zip(scope.names, scope.sizes, groups, strict=True):
        scores = torch.empty(size, dtype=parameters[name].dtype)
        scores[at_Cs] = follow.scales[name].detach().cpu().abs()[:, None].expand(at_Cs.shape).to(scores.dtype)
        found.append(scores)
    return torch.cat(found)


def gamma(context: PruningContext) -> Tensor:
    """The scale behind the channel of each weight, ``[N]``."""
    return channel_scales(context.network(), context.scope, context.example())
