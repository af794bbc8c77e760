"""Features of the shallow layers under the core: one pass for all tickets, and no new weights.

The core is what every ticket keeps. Norm statistics under it are nobody's, so they are estimated afresh.
Shape letters: B batch, C channels, D features, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch, call, first, size, take
from tombola._utils.device import device_of
from tombola._utils.errors import RouterError
from tombola._utils.replica import copied
from tombola.masks.bits import unpacked
from tombola.masks.layout import Layout
from tombola.tickets.fitted import Tickets
from tombola.training import norm
from tombola.training.model import FunctionalModel

if TYPE_CHECKING:
    from tombola.tickets.routing.features import Samples

BATCHES = 16  # that norm statistics are estimated from


class _Reached(Exception):
    """The last tap was passed: there is no need to go on."""


class Shallow:
    """Pooled inputs of a few layers (``taps``) of the network under the core mask: ``x`` to float ``[B, D]``.

    Of the tensor that flows into a layer, the mean and the logarithm of the deviation of each channel over
    places are features; of one without places, its values. The pass ends where the last of them was seen.
    ``statistics`` are those of norms under the core. The core is that of the ``first`` tickets, 0 for all:
    one that is grown later changes no feature.
    """

    def __init__(
        self, taps: Sequence[str], statistics: Mapping[str, Tensor], bands: int = 1, first: int = 0
    ) -> None:
        self.taps, self.statistics, self.bands, self.first = tuple(taps), dict(statistics), bands, first

    @classmethod
    def of(cls, tickets: Tickets, samples: Samples, depth: int = 0, bands: int = 1) -> Self:
        """Taps and statistics for these tickets (`RouterError` where no shallow layer can be read)."""
        backbone = tickets.backbone
        few = take(next(samples.batches(device_of(backbone))), slice(2))
        every = dict(backbone.named_modules())
        seen = inputs_of(tickets.replica(core(tickets)).module, few, list(every))
        passed, order = list(seen), [n for n, h in seen.items() if _says_something(every[n], h, size(few))]
        if not order:
            raise RouterError("the network has no layers (modules with weights) that could be read")
        if depth >= len(order):
            raise RouterError(f"depth={depth}: only {len(order) - 1} layers lie before the last one")
        depth = depth or min(-(-len(order) // 3), len(order) - 1)
        reached = passed[: passed.index(order[depth])]
        statistics = {
            n: t
            for n, t in _statistics(tickets, samples).items()
            if n.rpartition(".")[0] in reached and t.is_floating_point()
        }
        return cls(list(dict.fromkeys([order[min(1, depth)], order[depth]])), statistics, bands)

    def __call__(self, tickets: Tickets, x: Batch) -> Tensor:
        """Features ``[B, D]``, float32, on the CPU; each sample's are its own."""
        named = core(tickets, self.first) | {n: t.to(first(x).device) for n, t in self.statistics.items()}
        seen = inputs_of(tickets.replica(named).module, x, self.taps)
        layers = {name: tickets.backbone.get_submodule(name) for name in self.taps}
        return torch.cat([pooled(seen[name], layer, self.bands) for name, layer in layers.items()], 1).cpu()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Facts, and all statistics as one vector."""
        layout = Layout.of(self.statistics)
        metadata = {"taps": self.taps, "bands": self.bands, "names": layout.names, "shapes": layout.shapes}
        metadata |= {"first": self.first} if self.first else {}
        return metadata, {"statistics": layout.flatten(self.statistics)}

    @classmethod
    def restored(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `state`."""
        layout = Layout(tuple(metadata["names"]), tuple(map(tuple, metadata["shapes"])))
        statistics = layout.unflatten(tensors["statistics"])
        return cls(metadata["taps"], statistics, metadata["bands"], metadata.get("first", 0))


def core(tickets: Tickets, first: int = 0) -> dict[str, Tensor]:
    """The tensors of the backbone under the core: what all tickets keep, and the mean of private tensors.

    All tickets are the ``first`` so many, where that is not 0.

    Of a layer of which all tickets have no weight in common, as where tickets were grown, what any of them
    keeps.
    """
    weights_N, _, _ = tickets.state(tickets.names[0])
    some = slice(first or None)
    reduced = (reduce(both, tickets.bits_KM[some]) for both in (torch.bitwise_and, torch.bitwise_or))
    core_N, union_N = (unpacked(bits_M, tickets.scope.size) for bits_M in reduced)
    layers = zip(core_N.split(tickets.scope.sizes), union_N.split(tickets.scope.sizes), strict=True)
    kept_N = torch.cat([of_all if bool(of_all.any()) else of_any for of_all, of_any in layers])
    own = tickets.private.unflatten(tickets.private_KP[some].mean(0))
    own |= tickets.statistics.unflatten(tickets.statistics_KS[some].mean(0))
    return {n: t.detach() for n, t in (tickets.scope.unflatten(weights_N * kept_N) | own).items()}


def _says_something(layer: nn.Module, h: Tensor, samples: int) -> bool:
    """Whether a layer has weights, and floats of each sample as its input: no numbers of tokens or places."""
    weighs = any(p.ndim > 1 for p in layer.parameters(recurse=False))
    return weighs and h.is_floating_point() and len(h) == samples


def inputs_of(network: nn.Module, x: Batch, layers: Sequence[str]) -> dict[str, Tensor]:
    """Inputs of these layers, by name, in the order of a pass, which ends with the last of them.

    The network is a replica, of which nobody else knows.
    """
    seen: dict[str, Tensor] = {}

    def look(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if name not in seen and inputs and isinstance(inputs[0], Tensor):
            seen[name] = inputs[0]
            if len(seen) == len(layers):
                raise _Reached

    for name in layers:
        layer = network.get_submodule(name)
        layer._forward_pre_hooks = layer._forward_pre_hooks.copy()  # those of its original stay
        layer.register_forward_pre_hook(partial(look, name))
    with suppress(_Reached):
        call(network, x)
    return seen


def pooled(h: Tensor, layer: nn.Module, bands: int) -> Tensor:
    """Mean and log-deviation of each channel over places, float ``[B, D]``; ``[B, D]`` stays as it is."""
    h = h.float()
    if h.ndim <= 2:
        return h.flatten(1)
    if isinstance(layer, nn.Linear):
        h = h.movedim(-1, 1)
    parts = h.tensor_split(min(bands, h.shape[-1]), dim=-1) if bands > 1 else (h,)
    flat = [part.flatten(2) for part in parts]
    means = [part.mean(2) for part in flat]
    deviations = [(part.var(2, unbiased=False) + 1e-6).log() / 2 for part in flat]
    return torch.cat([*means, *deviations], 1)


def _statistics(tickets: Tickets, samples: Samples) -> dict[str, Tensor]:
    plain = copied(tickets.backbone).requires_grad_(True)
    plain.load_state_dict(core(tickets), strict=False)
    if not norm.statistics_names(plain):
        return {}
    f = FunctionalModel(plain, Layout((), ()))
    mixed = samples.mixed(BATCHES, f.device)
    return norm.estimate(f, f.theta0(), [(0, None, x) for x in mixed])
