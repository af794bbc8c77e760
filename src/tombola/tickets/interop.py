"""Masks from and to other tools: ``torch.nn.utils.prune``, and plain weights with zeros in them.

Nothing here changes what it is given; modules that come back are copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tombola._utils.errors import MaskError
from tombola._utils.replica import copied
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope as prunable
from tombola.tickets.model import TicketModel


def from_torch_prune(module: nn.Module, name: str = "pruned") -> TicketModel:
    """One ticket from a module that was pruned with ``torch.nn.utils.prune``.

    The backbone of the result is a plain copy with the dense weights (``weight_orig``), without hooks; the
    mask covers the tensors that were pruned there. It computes what the pruned module computes.

    Raises:
        MaskError: nothing is pruned, or layers that share a weight are pruned differently.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = prune.l1_unstructured(net[0], "weight", amount=5)
    >>> tickets = from_torch_prune(net)
    >>> tickets.masks.counts, list(tickets.backbone.state_dict())[0]
    ({'pruned': 7}, '0.bias')
    """
    places = list(_pruned(module))
    if not places:
        raise MaskError("torch.nn.utils.prune has pruned nothing here; zeros are read by masks_from_zeros")
    dense = copied(module)
    layers = [(dense.get_submodule(path), attribute) for path, attribute in places]
    masks = [getattr(layer, f"{attribute}_mask") != 0 for layer, attribute in layers]
    weights = [getattr(layer, f"{attribute}_orig").detach().clone() for layer, attribute in layers]
    for layer, attribute in layers:
        prune.remove(layer, attribute)
    with torch.no_grad():
        for (layer, attribute), weight in zip(layers, weights, strict=True):
            getattr(layer, attribute).copy_(weight)
    named = {".".join(filter(None, place)): mask for place, mask in zip(places, masks, strict=True)}
    return TicketModel(dense, _gathered(dense, named, name)).train(module.training)


def _pruned(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Path of the layer and name of the tensor, for everything that torch.nn.utils.prune has pruned."""
    for path, layer in module.named_modules():
        originals = {name for name, _ in layer.named_parameters(recurse=False, remove_duplicate=False)}
        for buffer, _ in layer.named_buffers(recurse=False):
            attribute = buffer.removesuffix("_mask")
            if attribute != buffer and f"{attribute}_orig" in originals:
                yield path, attribute


def _gathered(module: nn.Module, masks: Mapping[str, Tensor], ticket: str) -> MaskSet:
    """One mask per weight from masks per use: a shared weight must have the same under all its names."""
    found: dict[str, Tensor] = {}
    for names in _uses(module).values():
        mine = [masks[name] for name in names if name in masks]
        if not mine:
            continue
        if len(mine) < len(names) or any(not torch.equal(mine[0], other) for other in mine[1:]):
            raise MaskError(
                f"{', '.join(names)} are one weight, pruned in some of these places or differently: a ticket "
                "has one mask per weight; prune it alike in all of them"
            )
        found[names[0]] = mine[0]
    scope = Layout.of(found)
    return MaskSet(scope, {ticket: scope.flatten(found)})


def _uses(module: nn.Module) -> dict[str, list[str]]:
    """All names of every parameter, by its first name: several where layers share a weight."""
    uses: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        uses.setdefault(id(parameter), []).append(name)
    return {names[0]: names for names in uses.values()}


def to_torch_prune(tickets: TicketModel, ticket: str | None = None) -> nn.Module:
    """A copy of the backbone that ``torch.nn.utils.prune`` has pruned to a ticket (``custom_from_mask``).

    It keeps the dense weights as ``weight_orig``, holds the ticket's private state, and goes on as any
    module pruned there: ``prune.remove`` makes zeros of the mask. A weight that layers share is pruned in all
    of them. torch applies masks in hooks of the layer's forward: ``nn.MultiheadAttention`` reads
    ``out_proj.weight`` without calling that layer, so such a module computes the right thing but should be
    trained as a `TicketModel`, not there.

    Raises:
        UnknownTicket, MaskError: no such ticket, or none named among several.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masks = MaskSet(Layout(("0.weight",), ((3, 4),)), {"cat": torch.arange(12) > 4})
    >>> pruned = to_torch_prune(TicketModel(net, masks))
    >>> prune.is_pruned(pruned), int((pruned[0].weight == 0).sum())
    (True, 5)
    """
    name = _named(tickets, ticket)
    module = copied(tickets.backbone)
    module.load_state_dict(tickets.private_state(name), strict=False)
    uses, masks = _uses(module), tickets.masks.layers(name)
    for first, mask in masks.items():
        for place in uses[first]:
            path, _, attribute = place.rpartition(".")
            layer = module.get_submodule(path)
            prune.custom_from_mask(layer, attribute, mask.to(getattr(layer, attribute).device))
    return module


def masks_from_zeros(
    weights: nn.Module | Mapping[str, Tensor], scope: Layout | None = None, name: str = "zeros"
) -> MaskSet:
    """One ticket from weights that another tool has set to zero: ``m = (θ ≠ 0)``.

    Args:
        weights: a module or a state dict; other entries than those in scope are ignored.
        scope: the weights to look at; of a module, by default, what `tombola.masks.prunable` names.
        name: the ticket's name.

    A kept weight that is exactly zero by itself cannot be told from a pruned one.

    Raises:
        MaskError: no scope for a state dict, weights that are missing or of another shape, or masks that
            torch.nn.utils.prune still holds beside the weights.

    >>> weights = {"w": torch.tensor([[0.5, 0.0], [0.0, -1.0]]), "b": torch.zeros(2)}
    >>> masks_from_zeros(weights, Layout(("w",), ((2, 2),)))["zeros"].tolist()
    [True, False, False, True]
    """
    if isinstance(weights, nn.Module):
        if next(_pruned(weights), None) is not None:
            raise MaskError("torch.nn.utils.prune holds masks beside these weights: use from_torch_prune")
        scope, weights = scope or prunable(weights), weights.state_dict()
    if scope is None:
        raise MaskError("a state dict does not say what may be pruned: pass scope=tombola.scope(model)")
    for key, shape in zip(scope.names, scope.shapes, strict=True):
        if key not in weights:
            hint = "; torch.nn.utils.prune wrote it: use from_torch_prune on the module"
            raise MaskError(f"there is no weight {key!r}{hint if f'{key}_orig' in weights else ''}")
        if tuple(weights[key].shape) != tuple(shape):
            have = tuple(weights[key].shape)
            raise MaskError(f"weight {key!r} has shape {have}, the scope asks for {tuple(shape)}")
    kept = {key: weights[key].detach() != 0 for key in scope.names}
    return MaskSet(scope, {name: scope.flatten(kept)})


def to_state_dict(tickets: TicketModel, ticket: str | None = None) -> dict[str, Tensor]:
    """A ticket as a plain state dict under the backbone's own names: zeros outside the mask.

    Raises:
        UnknownTicket, MaskError: no such ticket, or none named among several.

    >>> net = nn.Linear(4, 3)
    >>> masks = MaskSet(Layout(("weight",), ((3, 4),)), {"cat": torch.arange(12) > 4})
    >>> state = to_state_dict(TicketModel(net, masks))
    >>> list(state), int((state["weight"] == 0).sum())
    (['weight', 'bias'], 5)
    """
    return dict(tickets.bake(_named(tickets, ticket)).state_dict())


def _named(tickets: TicketModel, ticket: str | None) -> str:
    if ticket is None and len(tickets.names) > 1:
        raise MaskError(f"which ticket? Name one of {', '.join(tickets.names)}")
    return tickets.names[tickets.index(tickets.names[0] if ticket is None else ticket)]
