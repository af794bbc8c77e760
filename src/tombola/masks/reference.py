"""A reference point: weights as a network that stays plus a change, ``θ = θ_ref + s · δ``.

Tickets of the change leave what they do not own at its pretrained value instead of zero:
``θ_k = θ_ref + m_k ⊙ δ``. The change is the parameter of the layer, by a parametrisation of torch's; so
scores, masks, optimisers, files and growth work on it as on any weight. It begins at zero, and magnitude is
``|θ − θ_ref|``. The reference is no parameter and is not stored: a ticket file knows its hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola._utils import io
from tombola._utils.errors import ScopeError, UsageError
from tombola._utils.replica import copied
from tombola._utils.torch_state import plain_name
from tombola.masks.low_rank import LowRank, not_pickled

ORIGINAL = "parametrizations.{}.original"
_REST = "digests_of_rest"  # the attribute of a network that says what its other parameters were


class Change(nn.Module):
    """The parametrisation of a weight as ``reference + scale · change``.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = parametrize.register_parametrization(layer, "weight", Change(layer.weight))
    >>> layer.parametrizations.weight.original.tolist()  # the change
    [[0.0, 0.0]]
    """

    reference: Tensor
    scale: Tensor

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("reference", reference.detach().clone(), persistent=False)
        self.register_buffer("scale", torch.ones((), dtype=reference.dtype, device=reference.device))

    def forward(self, change: Tensor) -> Tensor:
        """The weight."""
        return self.reference + self.scale * change

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The change that makes this weight of the reference."""
        return (weight - self.reference) / self.scale


def from_reference(network: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy in which these weights are the changes of what they are now, which is the reference.

    Args:
        network: the pretrained network.
        names: of parameters, such as ``0.weight``; one that is a change already stays.

    Raises:
        ScopeError: no such parameter, or one that several layers share or that is in a recurrent layer.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> changed = from_reference(net, ["0.weight"])
    >>> [name for name, _ in changed.named_parameters()][1], torch.equal(changed[0].weight, net[0].weight)
    ('0.parametrizations.weight.original', True)
    """
    made = copied(network)
    names, there = list(names), {*references(made)}
    if not there:  # what is not in a file of tickets, as long as it stays like this
        rest = {plain_name(n): p for n, p in made.named_parameters() if n not in names}
        setattr(made, _REST, {n: io.digest({"": p}) for n, p in rest.items()})
    counted = [id(p) for _, p in made.named_parameters(remove_duplicate=False)]
    known = dict(made.named_parameters())
    for name in names:
        if original(name) in there:
            continue
        there.add(original(name))
        path, _, last = name.rpartition(".")
        if name not in known:
            raise ScopeError(f"the network has no parameter {name}")
        layer = made.get_submodule(path)
        if isinstance(layer, parametrize.ParametrizationList):
            raise ScopeError(
                f"{name} makes the weight of a layer with a norm, and can have no reference: exclude it"
            )
        if counted.count(id(known[name])) > 1 or isinstance(layer, nn.RNNBase):
            raise ScopeError(
                f"{name} is shared by layers, or in a recurrent one: it can have no reference; exclude it"
            )
        parametrize.register_parametrization(layer, last, Change(known[name]))
        type(layer).__getstate__ = not_pickled  # type: ignore[method-assign]
    return made


def changed(name: str) -> str:
    """The name of the change of a weight.

    >>> changed("0.weight")
    '0.parametrizations.weight.original'
    """
    path, _, last = name.rpartition(".")
    return ".".join(filter(None, [path, ORIGINAL.format(last)]))


def original(name: str) -> str:
    """The inverse of `changed`; other names as they are.

    >>> original("0.parametrizations.weight.original"), original("1.bias")
    ('0.weight', '1.bias')
    """
    path, sign, last = name.partition("parametrizations.")
    return path + last.removesuffix(".original") if sign else name


def references(network: nn.Module) -> dict[str, Tensor]:
    """The reference of every weight that is a change, by the name of the weight; none of a plain network."""
    found = ((n, m) for n, m in network.named_modules() if isinstance(m, Change))
    return {original(n.rpartition(".")[0] + ".original"): m.reference for n, m in found}


def unchanged(network: nn.Module) -> dict[str, str]:
    """The hash of each parameter beside the changes that is still what it was in the pretrained network, such
    as embeddings that are not trained; none without a reference.

    >>> network = from_reference(nn.Linear(2, 1), ["weight"])
    >>> [*unchanged(network)], nn.init.zeros_(network.bias).tolist(), unchanged(network)
    (['bias'], [0.0], {})
    """
    before, now = getattr(network, _REST, {}), dict(network.named_parameters())
    named = {plain_name(name): p for name, p in now.items()}
    return {n: before[n] for n, p in named.items() if n in before and io.digest({"": p}) == before[n]}


def digest(network: nn.Module) -> str:
    """The hash of the reference; empty without one."""
    held = references(network)
    return io.digest(held) if held else ""


@torch.no_grad()
def plain(network: nn.Module) -> nn.Module:
    """The network with plain weights, in place; as it was where it has no reference.

    >>> layer = from_reference(nn.Linear(2, 1), ["weight"])
    >>> type(layer).__name__, plain(layer)
    ('ParametrizedLinear', Linear(in_features=2, out_features=1, bias=True))
    """
    for layer in list(network.modules()):
        if not parametrize.is_parametrized(layer):
            continue
        made = dict(layer.get_submodule("parametrizations").named_children())
        if not all(isinstance(m, Change | LowRank) for one in made.values() for m in one.children()):
            continue
        weights = {name: getattr(layer, name).detach() for name in made}
        # By hand: torch's removal takes the property from a class that copies of the layer share.
        layer.__class__ = type(layer).__bases__[0]
        del layer.parametrizations
        others = dict(layer._parameters)  # those that are None too
        layer._parameters.clear()  # weights come first, as layers make them
        for name, weight in (*weights.items(), *others.items()):
            layer.register_parameter(name, weight if name in others else nn.Parameter(weight))
    network.__dict__.pop(_REST, None)
    return network


def put(network: nn.Module, changes: Mapping[str, Tensor]) -> None:
    """Set changes, by the names of their weights, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, change in changes.items():
            parameters[changed(name)].copy_(change)


def check(reference: str) -> str:
    """The kind of reference; `UsageError` for one that there is not."""
    if reference not in ("zero", "theta0"):
        raise UsageError(f"reference is zero or theta0: got {reference!r}")
    return reference
