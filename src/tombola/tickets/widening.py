"""Tickets on a wider network: more neurons and channels for tickets to come, the same answers as before.

Old weights lie at the beginning of every dimension of the wider ones, and masks that are there keep nothing
else. So a new neuron is 0 for their tickets, as long as its bias is, and adds nothing to what follows.

Shape letters: N weights in scope.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.device import device_of
from tombola._utils.errors import MaskError, TombolaError, UsageError, warn
from tombola._utils.replica import copied
from tombola.masks.layout import Layout
from tombola.masks.low_rank import adapter_names
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import is_norm
from tombola.masks.reference import references
from tombola.tickets import fitted, probe
from tombola.tickets.model import TicketModel
from tombola.tickets.passes import evaluating
from tombola.training.model import check_network


@torch.no_grad()
def widened(tickets: TicketModel, backbone: nn.Module, *, like: Batch | None = None) -> TicketModel:
    """The same tickets on a network of the same layers, some of them wider, whose new weights are free.

    What every ticket answers is compared before and after. It is the same bit for bit, unless a wider layer
    is summed in another order; then a warning says how far answers are apart.

    Args:
        tickets: those that are there; they stay as they are.
        backbone: the wider network; of what it holds, weights that no ticket keeps are used.
        like: inputs to compare answers on, where the tickets do not know what theirs look like.

    Raises:
        UsageError: tickets with adapters, or of the change of a reference.
        MaskError: another network than that of the tickets, or narrower somewhere.
        TombolaError: answers differ: what a layer does with one neuron depends on how many there are (layer
            and group norms, attention, concatenations).

    >>> from torch.nn import Linear, ReLU, Sequential
    >>> masks = MaskSet(Layout(("0.weight",), ((4, 3),)), {"a": torch.ones(12) > 0})
    >>> tickets = TicketModel(Sequential(Linear(3, 4), ReLU(), Linear(4, 2)), masks).eval()
    >>> wide = widened(tickets, Sequential(Linear(3, 6), ReLU(), Linear(6, 2)), like=torch.rand(5, 3))
    >>> wide.scope.size, wide.free
    (18, 6)
    """
    check_network(backbone)
    if references(tickets.backbone) or adapter_names(tickets.backbone):
        raise UsageError("only plain tickets can be widened, not those with adapters or of a reference")
    wide = copied(backbone).to(device_of(tickets.backbone))
    held = {n: t.detach() for n, t in (*wide.named_parameters(), *wide.named_buffers())}
    _check(tickets, held)
    neutral = _neutral(wide, held)
    shapes = tuple(tuple(held[name].shape) for name in tickets.scope.names)
    scope = Layout(tickets.scope.names, shapes)
    rows = [scope.flatten(_padded(tickets.scope.unflatten(m), scope)) for m in tickets.masks.rows()]
    private = {
        name: {n: _placed(t, neutral[n]) for n, t in tickets.private_state(name).items()}
        for name in tickets.names
    }
    for name, t in (*tickets.backbone.named_parameters(), *tickets.backbone.named_buffers()):
        into = held[name] if name in scope.names else neutral[name]
        held[name].copy_(_placed(t, into))
    masks = MaskSet.stacked(scope, tickets.names, torch.stack(rows))
    made = TicketModel(wide, masks, private, tickets.metadata).train(tickets.training)
    _compare(tickets, made, like)
    fitted.carry(tickets, made, "was fitted on the narrower network")
    return made


def _check(tickets: TicketModel, held: Mapping[str, Tensor]) -> None:
    old = dict([*tickets.backbone.named_parameters(), *tickets.backbone.named_buffers()])
    for name in dict.fromkeys([*old, *held]):
        if name not in old or name not in held:
            which = "tickets" if name not in old else "wider network"
            raise MaskError(f"the network of the {which} has no {name}: give the same layers, only wider")
        a, b = tuple(old[name].shape), tuple(held[name].shape)
        if len(a) != len(b) or any(i > j for i, j in zip(a, b, strict=True)):
            raise MaskError(f"{name} is {b}, which has no room for {a}: give the same layers, only wider")


def _neutral(wide: nn.Module, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What new entries hold outside the scope: a neuron without a bias; norms as they are made."""
    norms = {n for n, layer in wide.named_modules() if is_norm(layer)}
    return {
        n: torch.zeros_like(t) if t.ndim == 1 and n.rpartition(".")[0] not in norms else t
        for n, t in held.items()
    }


def _placed(old: Tensor, into: Tensor) -> Tensor:
    """A copy of ``into`` with ``old`` at the beginning of every dimension."""
    made = into.detach().clone()
    made[tuple(slice(n) for n in old.shape)] = old.detach()
    return made


def _padded(named: Mapping[str, Tensor], scope: Layout) -> dict[str, Tensor]:
    shapes = zip(scope.names, scope.shapes, strict=True)
    return {name: _placed(named[name], torch.zeros(shape, dtype=torch.bool)) for name, shape in shapes}


def _compare(tickets: TicketModel, wide: TicketModel, like: Batch | None) -> None:
    if like is None and tickets.metadata.get("probe") is None:
        raise TombolaError("these tickets do not know what their inputs look like: pass some as like=")
    x = probe.inputs(tickets.metadata["probe"]) if like is None else batch.plain(like)
    x = batch.mapped(lambda t: t.to(device_of(tickets.backbone)), x)
    apart = 0.0
    with evaluating():
        for name in tickets.names:
            before, after = (_numbers(model(x, ticket=name)) for model in (tickets, wide))
            if before.keys() != after.keys() or any(before[p].shape != after[p].shape for p in before):
                raise TombolaError(f"the wider network has outputs of another form for ticket {name!r}")
            for path, one in before.items():
                far = float((one - after[path]).abs().max() / one.abs().max().clamp(min=1e-12))
                apart = max(apart, far)
    if apart > probe.TOLERANCE:
        raise TombolaError(
            f"answers would change by {apart:.2g} of their size: in this network what a neuron does depends "
            "on how many there are (norms over features, attention, concatenation)"
        )
    if apart:
        said = f"answers are the same up to rounding ({apart:.1g} of their size)"
        warn(f"{said}: wider layers are summed in another order")


def _numbers(outputs: object) -> dict[str, Tensor]:
    leaves = batch.leaves(batch.opened(outputs))
    return {
        path: t.detach().double() for path, t in leaves if isinstance(t, Tensor) and t.is_floating_point()
    }
