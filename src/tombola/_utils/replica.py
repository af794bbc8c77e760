"""Copies of a network that hold other tensors, so that a pass swaps nothing in the network itself.

`torch.func.functional_call` puts tensors into the one module while it runs, where what runs at the same time
(threads), later (recomputed activations) or by another reference sees them too. A replica, as
``torch.nn.parallel.replicate`` makes them, is a copy of the tree of modules that shares everything with its
original but the tensors that are given.
"""

from __future__ import annotations

import copy
import functools
import operator
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

_PLAIN = {bool, int, float, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type}
_TENSORS = ("_parameters", "_buffers", "_former_parameters")  # the last in replicas of ``DataParallel``
_TABLES = (*_TENSORS, "_modules")
_OWN = (*_TABLES, "_compiled_call_impl")  # the last would call the original
_SMALL = 1000  # entries of a list or dictionary that are looked at one by one


class Tree:
    """The modules of a network as they are now, of which `replica` makes copies.

    To find what leads where takes a while, so a tree is kept as long as it is `current`.

    Attributes:
        module: the network.
        tensors: its parameters and buffers, under each of their names.

    >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    >>> other = Tree(net).replica({"0.weight": torch.zeros(1, 2), "0.bias": torch.ones(1)})
    >>> other.module(torch.rand(1, 2)).tolist(), bool(net[0].weight.any())
    ([[1.0]], True)
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.prefixes, self.originals = _modules(module)
        self._live = [m.__dict__ for m in self.originals]
        self.snapshots = [d.copy() for d in self._live]  # first: what changes later is noticed
        self._tables = [d[t] for d in self.snapshots for t in _TABLES if t in d]
        self._sizes, self._full = [*map(len, self._tables)], [t for t in self._tables if t]
        self._held = _values(self._full)
        self._views = _containers(self.snapshots)
        self._lengths = [*map(len, self._views)]
        self._small = [view for view in self._views if 0 < len(view) <= _SMALL]
        self._items = [*chain.from_iterable(self._small)]
        number = {id(m): i for i, m in enumerate(self.originals)}
        self.children = [
            {n: None if c is None else number[id(c)] for n, c in m._modules.items()} for m in self.originals
        ]
        self.tensors: dict[str, Tensor] = {}
        self.places: dict[str, list[tuple[int, str, str]]] = {}  # of each tensor: module, table, name there
        of_tensor: dict[int, list[tuple[int, str, str]]] = {}  # a tied one is in several
        for i, (prefix, d) in enumerate(zip(self.prefixes, self.snapshots, strict=True)):
            for table in _TENSORS:
                for name, tensor in d.get(table, {}).items():
                    if tensor is not None:
                        self.tensors[prefix + name] = tensor
                        places = self.places[prefix + name] = of_tensor.setdefault(id(tensor), [])
                        places.append((i, table, name))
        leads = _Follow(dict.fromkeys([*number, *of_tensor], _Something()))
        self.leading = [
            (i, name)
            for i, d in enumerate(self.snapshots)
            for name, value in d.items()
            if type(value) not in _PLAIN and name not in _OWN and leads(value) is not value
        ]

    def __reduce__(self) -> tuple[type[Tree], tuple[nn.Module]]:
        return Tree, (self.module,)

    @property
    def current(self) -> bool:
        """Whether modules, tensors and attributes are those that were there when it was made."""
        try:
            return (
                [*map(len, self._tables)] == self._sizes
                and _same(_values(self._full), self._held)
                and self._live == self.snapshots
                and [*map(len, self._views)] == self._lengths
                and _same([*chain.from_iterable(self._small)], self._items)
            )
        except (RuntimeError, ValueError):  # tensors or arrays that differ
            return False

    def replica(self, tensors: Mapping[str, Tensor], training: bool | None = None) -> Replica:
        """A copy that is called with these tensors.

        Lists, dictionaries, bound methods, partials, closures and weak references among the attributes of a
        module that lead to a parameter, a buffer or a module of the tree lead to those of the copy.

        Args:
            tensors: parameters and buffers by their names; all others are those of the network.
            training: the mode of all modules; by default each has that of its original.
        """
        copies = [object.__new__(type(m)) for m in self.originals]
        owns = [d.copy() for d in self._live]
        for own, children in zip(owns, self.children, strict=True):
            for table in _TENSORS:
                if table in own:
                    own[table] = own[table].copy()
            own["_modules"] = {n: None if i is None else copies[i] for n, i in children.items()}
            own.pop("_compiled_call_impl", None)
            if training is not None:
                own["training"] = training
        for name, tensor in tensors.items():
            for i, table, place in self.places.get(name, ()):
                owns[i][table][place] = tensor
        if self.leading:
            follow = _Follow(self.counterparts(copies, owns))
            for i, name in self.leading:
                owns[i][name] = follow(owns[i][name])
        for new, own in zip(copies, owns, strict=True):
            object.__setattr__(new, "__dict__", own)
        return Replica(self, copies, owns, training)

    def counterparts(
        self, copies: list[Any], owns: list[dict[str, Any]], back: bool = False
    ) -> dict[int, Any]:
        """What stands in a copy for each module and tensor, by the ``id`` of the original, or ``back``."""
        pairs: list[tuple[Any, Any]] = list(zip(self.originals, copies, strict=True))
        for name, tensor in self.tensors.items():
            i, table, place = self.places[name][0]
            pairs.append((tensor, owns[i][table][place]))
        return {id(new): old for old, new in pairs} if back else {id(old): new for old, new in pairs}


class Replica:
    """A copy of a network. What ``forward`` assigns stays on it: ask for `buffers`, then call `take_back`.

    Attributes:
        module: the copy, to be called.
        tree: what it was made of.
        training: the mode of all its modules, None where each has that of its original.
    """

    def __init__(
        self, tree: Tree, copies: list[Any], owns: list[dict[str, Any]], training: bool | None
    ) -> None:
        self.tree, self.training, self._copies, self._owns = tree, training, copies, owns
        self._given = [own.copy() for own in owns]
        self._buffers = [own["_buffers"] for own in owns]
        self._held = [table.copy() for table in self._buffers]
        self.module: nn.Module = copies[0]

    def buffers(self) -> dict[str, Tensor]:
        """The buffers that passes assigned anew, by name, without their graph."""
        if _same(_values(self._buffers), _values(self._held)):
            return {}
        return {
            prefix + name: value.detach()
            for prefix, table, held in zip(self.tree.prefixes, self._buffers, self._held, strict=True)
            for name, value in table.items()
            if value is not None and value is not held.get(name)
        }

    def take_back(self, detach: bool = True) -> None:
        """Give the network the attributes that passes assigned, tensors without their graph if asked for."""
        with suppress(RuntimeError, ValueError):  # tensors or arrays that differ
            if self._owns == self._given:
                return
        back = _Follow(self.tree.counterparts(self._copies, self._owns, back=True))
        for old, own, given in zip(self.tree.originals, self._owns, self._given, strict=True):
            for name, value in own.items():
                if name not in given or given[name] is not value:
                    found = back(value)
                    old.__dict__[name] = tree_map_only(Tensor, Tensor.detach, found) if detach else found
                    given[name] = value


def _modules(module: nn.Module) -> tuple[list[str], list[nn.Module]]:
    """Prefixes and modules, in the order of ``named_modules`` and in a fraction of its time."""
    found: dict[int, tuple[str, nn.Module]] = {}
    todo = [("", module)]
    while todo:
        prefix, m = todo.pop()
        if id(m) not in found:
            found[id(m)] = prefix, m
            todo += [(f"{prefix}{n}.", c) for n, c in reversed(m._modules.items()) if c is not None]
    prefixes, modules = zip(*found.values(), strict=True)
    return list(prefixes), list(modules)


def _containers(attributes: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Lists, sets and values of dictionaries among attributes, however deep; each is seen as it will be."""
    found: dict[int, Any] = {}
    todo = [v for d in attributes for name, v in d.items() if name not in _TABLES]
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind in (list, set, dict, OrderedDict, defaultdict) and id(value) not in found:
            view = value.values() if isinstance(value, dict) else value
            found[id(value)] = view
            todo += [v for v in view if type(v) not in _PLAIN] if len(view) <= _SMALL else []
        elif kind is tuple:
            todo += [v for v in value if type(v) not in _PLAIN]
    return list(found.values())


def _values(tables: Iterable[Mapping[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(table.values() for table in tables))


def _same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


class _Something:
    """Stands for what is not yet made."""


class _Follow:
    """Attributes with what they lead to replaced: ``there[id(old)]`` stands for each ``old``."""

    def __init__(self, there: Mapping[int, Any]) -> None:
        self.there, self._open = there, set[int]()

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if (new := self.there.get(id(value))) is not None:
            return new
        way = _WAYS.get(kind)
        if way is None or id(value) in self._open:  # a container may hold itself
            return value
        self._open.add(id(value))
        try:
            return way(self, value)
        finally:
            self._open.discard(id(value))

    def items(self, value: Any) -> Any:
        """A list, tuple or set."""
        new = [*map(self, value)]
        return value if _same(new, list(value)) else type(value)(new)

    def table(self, value: Any) -> Any:
        """A dictionary."""
        new = {name: self(one) for name, one in value.items()}
        if _same([*new.values()], [*value.values()]):
            return value
        made = copy.copy(value)
        made.update(new)
        return made

    def method(self, value: types.MethodType) -> Any:
        """A method bound to a module."""
        owner = self(value.__self__)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)

    def partial(self, value: functools.partial[Any]) -> Any:
        """A function with some of its arguments."""
        new = self(value.func), self(value.args), self(value.keywords)
        old = value.func, value.args, value.keywords
        return value if _same([*new], [*old]) else functools.partial(new[0], *new[1], **new[2])

    def function(self, value: types.FunctionType) -> Any:
        """A function, by its closure."""
        cells = [self._cell(cell) for cell in value.__closure__ or ()]
        if _same(cells, [*(value.__closure__ or ())]):
            return value
        made = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells)
        )
        made.__kwdefaults__ = value.__kwdefaults__
        made.__dict__.update(value.__dict__)
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        try:
            old = cell.cell_contents
        except ValueError:  # not yet filled
            return cell
        new = self(old)
        return cell if new is old else types.CellType(new)

    def weak(self, value: weakref.ref[Any]) -> Any:
        """A weak reference, such as those of recurrent layers."""
        old = value()
        new = self(old)
        return value if new is old else weakref.ref(new)


_WAYS: dict[type, Callable[[_Follow, Any], Any]] = {
    **dict.fromkeys((list, tuple, set), _Follow.items),
    **dict.fromkeys((dict, OrderedDict, defaultdict), _Follow.table),
    types.MethodType: _Follow.method,
    functools.partial: _Follow.partial,
    types.FunctionType: _Follow.function,
    weakref.ref: _Follow.weak,
}


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, also of a network that keeps tensors of its last pass, which lose their graph.

    >>> net = nn.Linear(2, 1)
    >>> net.features = net(torch.ones(1, 2))
    >>> copied(net).features.requires_grad
    False
    """
    kept = (t for m in module.modules() for t in tree_leaves(vars(m)) if isinstance(t, Tensor))
    made = copy.deepcopy(module, {id(t): t.detach().clone() for t in kept if t.grad_fn is not None})
    old, new = Tree(module), Tree(made)
    follow = _Follow(old.counterparts(new.originals, new.snapshots))  # deepcopy leaves closures as they are
    for i, name in old.leading:
        d = new.originals[i].__dict__
        if name in d:  # wrappers of torch.compile make some anew
            d[name] = follow(d[name])
    return made
