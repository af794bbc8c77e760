"""Networks that are told the context: the first layer also sees a learned embedding of its number.

The baseline of RTL's third experiment (arXiv 2601.22141, Appendix C) for any network: one mask, told
the context as an input, instead of a mask per context.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tombola._utils.device import device_of
from tombola._utils.errors import PartitionError, UsageError
from tombola._utils.replica import copied
from tombola._utils.rng import generator
from tombola.data.dataset import Data, number, with_context
from tombola.data.partition import Partition
from tombola.objectives import Objective

CONTEXT_WIDTH = 16  # length of the embedding of a context that is an input
Plain = nn.Linear | nn.Conv1d | nn.Conv2d


def with_context_input(
    backbone: nn.Module, objective: Objective, data: Data, partition: Partition, seed: int
) -> tuple[nn.Module, Data]:
    """The backbone with the number of the subset as an input, and data that bring it.

    Raises:
        UsageError: the subset is what the objective asks for, or the backbone cannot be told it.
        PartitionError: subsets overlap.
    """
    if objective.context_is_answer:
        raise UsageError(
            f"{type(objective).__name__} asks for the subset: a network that is told it has nothing to "
            "answer; leave out the methods that tell it"
        )
    if any(bool((members_SK.sum(1) > 1).any()) for members_SK in partition.members.values()):
        raise PartitionError(
            "subsets overlap, so a sample has no one context that could be told: leave out the methods "
            "that tell it"
        )
    wide = conditioned(backbone, len(partition), CONTEXT_WIDTH, generator(seed, "told"))
    few = torch.arange(min(2, len(data.train)))
    x = data.inputs("train", few, device=device_of(wide))
    if not isinstance(x, Tensor):
        raise UsageError(
            f"inputs are a {type(x).__name__}, and only a network of one tensor can be told the context: "
            "leave out the methods that tell it"
        )
    told = torch.arange(len(partition))
    if not torch.equal(told.to(x.dtype).long(), told):
        raise UsageError(
            f"inputs of {str(x.dtype).removeprefix('torch.')} cannot hold the numbers of {len(partition)} "
            "contexts, so the network cannot be told them: leave out the methods that tell it"
        )
    check_arrival(wide, with_context(x, torch.ones(len(few), device=x.device)))
    contexts = {s: members_SK.int().argmax(1) for s, members_SK in partition.members.items()}
    return wide, replace(data, contexts=contexts)


class _Told(nn.Module):
    """A layer whose input has one more channel, the number of the context; it sees it embedded."""

    context: nn.Parameter  # [K, width]
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``[B, C + 1, ...]`` to outputs of the layer."""
        embedded = self.context[number(x).long()].view(len(x), -1, *[1] * (x.ndim - 2))
        outputs: Tensor = super().forward(torch.cat([x[:, :-1], embedded.expand(-1, -1, *x.shape[2:])], 1))
        return outputs


class ToldLinear(_Told, nn.Linear):
    """A linear layer that is told the context."""


class ToldConv1d(_Told, nn.Conv1d):
    """A convolution that is told the context."""


class ToldConv2d(_Told, nn.Conv2d):
    """A convolution that is told the context."""


def conditioned(backbone: nn.Module, contexts: int, width: int, generator: torch.Generator) -> nn.Module:
    """A copy of a network that takes inputs of `tombola.data.dataset.with_context`.

    Its first layer gets ``width`` more input channels. All weights that both networks have are equal and
    keep their names; the additional ones are drawn from a normal distribution with the deviation of the
    layer's own, the embeddings (a parameter ``context`` of the layer) from the standard one.

    Args:
        backbone: a network whose first layer takes the input's channels.
        contexts: how many there are, K.
        width: length of an embedding; 16 in the paper.
        generator: draws the new weights.

    Raises:
        UsageError: the first layer is neither linear nor a plain 1d or 2d convolution; a subclass of
            those may do anything with its weight, so it is not replaced.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> conditioned(net, contexts=4, width=16, generator=torch.Generator())(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """
    module = copied(backbone)
    own = ((n, m) for n, m in module.named_modules() if next(m.parameters(recurse=False), None) is not None)
    name, first = next(own, ("", module))
    groups = getattr(first, "groups", 1)
    if not isinstance(first, Plain) or type(first) not in get_args(Plain) or groups != 1:
        raise UsageError(
            "only a network that begins with a linear layer or a plain convolution can be told the context; "
            f"this one begins with {name} {type(first).__name__}{f' of {groups} groups' * (groups != 1)}: "
            "leave out the methods that tell it"
        )
    with torch.random.fork_rng(devices=[]):  # a new layer draws weights, which are replaced below
        layer = _widened(first, width).to(first.weight.dtype).train(first.training)
    layer.context = nn.Parameter(torch.empty(contexts, width, dtype=first.weight.dtype))
    with torch.no_grad():
        nn.init.normal_(layer.context, generator=generator)
        nn.init.normal_(layer.weight, std=float(first.weight.std()), generator=generator)  # on the CPU
        layer.to(first.weight.device)
        layer.weight[:, : first.weight.shape[1]] = first.weight
        if layer.bias is not None and first.bias is not None:
            layer.bias.copy_(first.bias)
    if not name:
        return layer
    module.set_submodule(name, layer)
    return module


def _widened(first: Plain, width: int) -> ToldLinear | ToldConv1d | ToldConv2d:
    """The layer with so many more input channels, its weights not yet set."""
    bias = first.bias is not None
    if isinstance(first, nn.Linear):
        return ToldLinear(first.in_features + width, first.out_features, bias)
    kind: Any = ToldConv1d if isinstance(first, nn.Conv1d) else ToldConv2d
    wide: ToldConv1d | ToldConv2d = kind(
        first.in_channels + width,
        first.out_channels,
        first.kernel_size,
        first.stride,
        first.padding,
        first.dilation,
        bias=bias,
        padding_mode=first.padding_mode,
    )
    return wide


class _Arrived(Exception):
    """The input has reached the layer that embeds the context; there is no need to go on."""


def check_arrival(network: nn.Module, x: Tensor) -> None:
    """Make sure that the number of the context reaches the first layer of a `conditioned` network unchanged.

    What comes before it may drop, pad, scale or mix channels; the network would then be told another
    context, or none.

    Args:
        network: of `conditioned`.
        x: some inputs of `tombola.data.dataset.with_context`, of one context that is not 0.

    Raises:
        UsageError: the number is changed on the way, or is not the last channel.
    """
    network = copied(network).train()  # dropout acts in training
    name, layer = next((n, m) for n, m in network.named_modules() if isinstance(m, _Told))
    arrived: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        arrived.append(inputs[0])
        raise _Arrived

    layer.register_forward_pre_hook(look)
    # An error on the way is one that the plain network does not make: the channel does not fit there.
    with torch.random.fork_rng(devices=[]), torch.no_grad(), suppress(Exception):
        network(x)
    channels = layer.weight.shape[1] - layer.context.shape[1] + 1
    fits = arrived and arrived[0].ndim == layer.weight.ndim and arrived[0].shape[1] == channels
    if not fits or not torch.equal(number(arrived[0]), number(x)):
        raise UsageError(
            f"the number of the context, one more channel of the input, does not reach the first layer "
            f"({name or type(layer).__name__}) as its last channel: something before that layer (flattening, "
            "padding, dropout, a norm) changes it; leave out the methods that tell it"
        )
