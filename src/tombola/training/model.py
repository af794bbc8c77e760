"""The backbone as the paper's function ``f(x; m ⊙ θ)``; the network itself stays untouched.

Shape letters: N weights in scope, R the dense remainder that tickets share, P private parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch, call
from tombola._utils.checkpoint import part
from tombola._utils.device import CPU
from tombola._utils.errors import MaskError, ScopeError, TombolaError, UsageError, unknown
from tombola._utils.replica import Tree, copied
from tombola._utils.sharded import check_whole
from tombola._utils.torch_state import transformed
from tombola.masks.apply import masked_weights
from tombola.masks.layout import Layout

WHOLE = "give the network whole; a loop of your own trains sharded tickets (docs/distributed.md)"


@dataclass
class Params:
    """The content of a backbone. ``private[k]`` belongs to ticket k; buffers are shared."""

    weights_N: Tensor
    shared_R: Tensor
    private: list[Tensor]
    buffers: dict[str, Tensor]

    def clone(self, tickets: int | None = None) -> Params:
        """A copy to train, with its own leaves; one private part is repeated for so many tickets."""
        private = self.private * (tickets or 1) if len(self.private) == 1 else self.private
        return Params(
            _leaf(self.weights_N),
            _leaf(self.shared_R),
            [_leaf(p) for p in private],
            {name: b.clone() for name, b in self.buffers.items()},
        )

    def to(self, device: torch.device) -> Params:
        """The same on a device; itself where it is there."""
        return self if self.weights_N.device == device else Params.from_tensors(self.tensors(), device)

    def masked(self, mask_N: Tensor) -> Params:
        """``m ⊙ θ``: a copy whose weights outside the mask are exactly zero."""
        theta = self.clone()
        theta.weights_N.data[~mask_N] = 0
        return theta

    def product(self, scope: Layout, mask_N: Tensor) -> dict[str, Tensor]:
        """``m ⊙ θ`` by name; gradients come out masked."""
        return masked_weights(scope, self.weights_N, mask_N)

    def leaves(self) -> list[Tensor]:
        """The tensors that an optimiser steps: weights, remainder, then the private part of each ticket."""
        return [self.weights_N, self.shared_R, *self.private]

    def tensors(self) -> dict[str, Tensor]:
        """Everything under stable names, for checkpoints."""
        private = {f"private.{k}": p.detach() for k, p in enumerate(self.private)}
        buffers = {f"buffers.{name}": b for name, b in self.buffers.items()}
        return {"weights": self.weights_N.detach(), "rest": self.shared_R.detach(), **private, **buffers}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device = CPU) -> Params:
        """The inverse of `tensors`, on a device."""
        count = sum(name.startswith("private.") for name in tensors)
        private = [_leaf(tensors[f"private.{k}"], device) for k in range(count)]
        buffers = {name: b.to(device) for name, b in part(tensors, "buffers.").items()}
        return cls(_leaf(tensors["weights"], device), _leaf(tensors["rest"], device), private, buffers)


def _leaf(flat: Tensor, device: torch.device | None = None) -> Tensor:
    return flat.detach().to(device, copy=True).requires_grad_()


class FunctionalModel:
    """``f(x; m_k ⊙ θ)`` for one backbone (Eq. 1 and 3).

    Parameters outside the scope are the dense remainder, or private to each ticket where ``private``
    names them; parameters that do not require gradients stay as they are. ``frozen_norms`` keeps norms with
    running statistics in evaluation mode while the network is trained.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> f = FunctionalModel(net, Layout(("0.weight",), ((8, 4),)))
    >>> theta, mask = f.theta0(), torch.zeros(32, dtype=torch.bool)
    >>> f(theta, mask, torch.rand(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self, backbone: nn.Module, scope: Layout, private: Iterable[str] = (), frozen_norms: bool = False
    ) -> None:
        self.frozen_norms = frozen_norms
        self.module = copied(backbone)
        self._tree = Tree(self.module)
        self._hooks = hooks_of(backbone)
        private = set(private)
        parameters = dict(self.module.named_parameters())
        frozen = [name for name in scope.names if not parameters[name].requires_grad]
        if frozen:
            raise ScopeError(f"{', '.join(frozen)} cannot be trained (requires_grad=False): exclude it")
        self.device = one_device(self.module)
        dense = {n: p for n, p in parameters.items() if p.requires_grad and n not in scope.names}
        self.scope = scope
        self.shared = Layout.of({n: p for n, p in dense.items() if n not in private})
        self.private = Layout.of({n: p for n, p in dense.items() if n in private})
        self._constants = {n: p.detach() for n, p in parameters.items() if not p.requires_grad}

    def theta0(self) -> Params:
        """The content of the backbone now, for one ticket."""
        parameters = dict(self.module.named_parameters())
        return Params(
            _leaf(self.scope.flatten(parameters)),
            _leaf(self.shared.flatten(parameters)),
            [_leaf(self.private.flatten(parameters))],
            {name: b.detach().clone() for name, b in self.module.named_buffers()},
        )

    def named(self, theta: Params, mask_N: Tensor | None, k: int = 0) -> dict[str, Tensor]:
        """The parameters and buffers of the backbone under ``m_k ⊙ θ``, by name."""
        if mask_N is None:
            weights = self.scope.unflatten(theta.weights_N)
        else:
            weights = theta.product(self.scope, mask_N)
        return {
            **self._constants,
            **weights,
            **self.shared.unflatten(theta.shared_R),
            **self.private.unflatten(theta.private[k]),
            **theta.buffers,
        }

    def __call__(self, theta: Params, mask_N: Tensor | None, x: Batch, k: int = 0) -> Any:
        """Outputs for inputs ``x``; gradients with respect to ``theta.weights_N`` come out masked."""
        with self.network(theta, mask_N, k) as network:
            return call(network, x)

    @contextmanager
    def network(self, theta: Params, mask_N: Tensor | None, k: int = 0) -> Iterator[nn.Module]:
        """The network with ``m_k ⊙ θ``, to be called as often as wished; the end takes its buffers back.

        It is a replica, so that what is computed again in the backward pass sees these weights.
        """
        named = self.named(theta, mask_N, k)
        for name, hooks in self._hooks.items():
            for hook in hooks if named[name].requires_grad else ():
                named[name].register_hook(hook)
        if not self._tree.current:
            self._tree = Tree(self.module)
        replica = self._tree.replica(named)
        yield replica.module
        buffers = replica.buffers()
        if not transformed():
            replica.take_back()
            theta.buffers.update(buffers)
        elif buffers:
            raise UsageError(
                f"forward assigns {', '.join(buffers)} anew, so this network cannot be trained as a batch of "
                "tickets: parallel=workers or no"
            )

    def train(self) -> None:
        """Put the network into training mode, all but frozen norms."""
        self.module.train()
        for _, layer in norms(self.module) if self.frozen_norms else ():
            layer.eval()

    def write(self, theta: Params, mask_N: Tensor | None = None, k: int = 0) -> nn.Module:
        """A copy of the backbone that holds ``m_k ⊙ θ`` (plain ``θ`` without a mask)."""
        module = copied(self.module)
        stored = module.state_dict().keys()
        module.load_state_dict({n: t.detach() for n, t in self.named(theta, mask_N, k).items()}, strict=False)
        for name, b in theta.buffers.items():
            if name not in stored:  # of a buffer that is not persistent, load_state_dict knows nothing
                owner, _, last = name.rpartition(".")
                module.get_submodule(owner)._buffers[last] = b.detach().clone()
        return module


def one_device(backbone: nn.Module) -> torch.device:
    """The device of a network; `ScopeError` where there are several, it holds no values, or shards alone."""
    check_whole(dict(backbone.named_parameters()), WHOLE)
    where = {t.device for t in (*backbone.parameters(), *backbone.buffers())}
    if len(where) > 1:
        raise ScopeError(f"the backbone lies on {' and '.join(map(str, where))}: move it to one device")
    device = where.pop()
    if device.type == "meta":
        raise ScopeError("the backbone is on the device meta and holds no values: load or initialise it")
    return device


def hooks_of(backbone: nn.Module) -> dict[str, list[Callable[[Tensor], Tensor | None]]]:
    """Hooks on the gradients of parameters, by name; a copy of the parameters does not have them.

    Raises:
        ScopeError: a hook that asks for a parameter which accumulates its gradient itself.
    """
    found = {}
    for name, p in backbone.named_parameters():
        if getattr(p, "_post_accumulate_grad_hooks", None):
            raise ScopeError(
                f"{name} has a hook of register_post_accumulate_grad_hook, but tickets train a copy of it: "
                "remove the hook, or use register_hook"
            )
        if p._backward_hooks:
            found[name] = list(p._backward_hooks.values())
    return found


def parameter_of(module: nn.Module, name: str) -> Tensor:
    """The parameter of this name, by its path: a fraction of the time of ``dict(module.named_parameters())``.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> parameter_of(net, "1.weight") is net[1].weight
    True
    """
    owner, (*path, last) = module, name.split(".")
    for step in path:
        owner = owner._modules[step]  # type: ignore[assignment]
    found = owner._parameters.get(last)
    return getattr(owner, last) if found is None else found  # a plain tensor in replicas of ``DataParallel``


def check_network(backbone: object) -> None:
    """Raise `TombolaError` for what is no network, such as a class that was not called."""
    if not isinstance(backbone, nn.Module):
        called = f"; call it: {backbone.__name__}()" if isinstance(backbone, type) else ""
        raise TombolaError(f"backbone must be a torch.nn.Module: got {type(backbone).__name__}{called}")


def check_scope(backbone: nn.Module, scope: Layout) -> None:
    """Raise `MaskError` unless the backbone has the weights of the scope, in those shapes."""
    parameters = dict(backbone.named_parameters())
    for name, shape in zip(scope.names, scope.shapes, strict=True):
        if name not in parameters:
            raise MaskError(f"the backbone has no weight {name!r}, which the masks cover")
        if tuple(parameters[name].shape) != shape:
            have = tuple(parameters[name].shape)
            raise MaskError(f"weight {name!r} has shape {have}, the masks are for {shape}")


def check_private(
    backbone: nn.Module, scope: Layout, private: Mapping[str, Mapping[str, Tensor]], names: tuple[str, ...]
) -> Mapping[str, Tensor]:
    """The private tensors of the first ticket.

    Raises:
        MaskError: not those of each ticket, not the same ones of all, or none that the backbone has outside
            the scope of the masks, in its shape.
    """
    if tuple(private) != names:
        raise MaskError(f"private state is for {list(private)}, the masks are for {list(names)}")
    first = private[names[0]]
    if any(set(row) != set(first) for row in private.values()):
        raise MaskError("every ticket must keep the same private tensors")
    known = {n: tuple(t.shape) for n, t in [*backbone.named_parameters(), *backbone.named_buffers()]}
    for ticket, row in private.items():
        for name, value in row.items():
            if name in scope.names:
                raise MaskError(f"private tensor {name!r} is under the masks: it can be private or masked")
            if name not in known:
                raise MaskError(unknown("parameter or buffer", name, known))
            if tuple(value.shape) != known[name]:
                raise MaskError(
                    f"private tensor {name!r} of {ticket!r} has shape {tuple(value.shape)}, the backbone's "
                    f"has {known[name]}"
                )
    return first


def norms(module: nn.Module) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """The normalisation layers that keep running statistics, with their names."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            yield name, layer
