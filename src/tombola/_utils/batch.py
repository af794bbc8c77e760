"""Batches: a tensor, or a tuple, dictionary or nest of tensors, whose rows are samples.

A network is called with a tensor as ``net(x)``, with a tuple as ``net(*x)``, with a dictionary as
``net(**x)``. What is no tensor in it (None, a flag, a string) is the same for all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    keystr,
    register_pytree_node,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_map_only,
)

from tombola._utils.errors import DataError, TombolaError

Batch = Any  # a tensor, or a tuple, dictionary or nest of tensors


def call(network: nn.Module, x: Batch) -> Any:
    """Outputs of a network for a batch.

    >>> call(nn.Bilinear(2, 3, 1), (torch.rand(5, 2), torch.rand(5, 3))).shape
    torch.Size([5, 1])
    """
    if isinstance(x, Tensor):
        return network(x)
    if isinstance(x, Mapping):
        return network(**x)
    return network(*x) if isinstance(x, tuple) else network(x)


def leaves(x: Any) -> list[tuple[str, Any]]:
    """The parts of a structure, each with the path to it, as one writes it in Python."""
    try:
        return [(keystr(path), part) for path, part in tree_flatten_with_path(x)[0]]
    except ValueError:  # a kind that was registered without names
        return [(f" number {i}", part) for i, part in enumerate(tree_leaves(x))]


def plain(x: Any) -> Batch:
    """A batch whose mappings are dictionaries, such as what a tokenizer gives."""
    return dict(x) if isinstance(x, Mapping) and type(x) is not dict else x


def tensors(x: Batch) -> dict[str, Tensor]:
    """Its tensors by the path to them; that of a batch of one tensor is empty.

    >>> list(tensors({"ids": torch.zeros(2), "more": (torch.zeros(2), None)}))
    ["['ids']", "['more'][0]"]
    """
    return {path: t for path, t in leaves(x) if isinstance(t, Tensor)}


def check(x: Batch) -> int:
    """The number of samples.

    Raises:
        TombolaError: something else than tensors in it, no tensor, or tensors with other numbers of samples.
    """
    sizes: dict[str, int] = {}
    for path, value in leaves(x):
        if isinstance(value, Tensor):
            if value.ndim == 0:
                raise TombolaError(f"x{path} is a single number, and no batch: pass x[None]")
            sizes[path] = len(value)
        elif not isinstance(value, bool | str | None):
            name = f"x{path}"
            whole = "x" if isinstance(value, int | float) else name  # a nest of plain numbers is one tensor
            remedy = getattr(type(value), "as_inputs", f"torch.as_tensor({whole})")
            raise TombolaError(f"{name} is {type(value).__name__}, not a tensor: pass {remedy}")
    if not sizes:
        raise TombolaError(f"x is {type(x).__name__} without a tensor: pass one, or a nest of them")
    if len(set(sizes.values())) > 1:
        several = ", ".join(f"x{path} has {n}" for path, n in sizes.items())
        raise TombolaError(f"the parts of x differ in their number of samples: {several}")
    return next(iter(sizes.values()))


def size(x: Batch) -> int:
    """The number of samples, of a batch that was checked."""
    return len(x) if isinstance(x, Tensor) else len(first(x))


def first(x: Batch) -> Tensor:
    """Its first tensor."""
    found: Tensor = x if isinstance(x, Tensor) else next(t for t in tree_leaves(x) if isinstance(t, Tensor))
    return found


def take(x: Batch, index: Tensor | slice) -> Batch:
    """The samples at these positions.

    >>> take({"ids": torch.arange(4)}, torch.tensor([2, 0]))
    {'ids': tensor([2, 0])}
    """
    return x[index] if isinstance(x, Tensor) else mapped(lambda t: t[index], x)


def mapped(change: Callable[..., Any], x: Batch, *others: Batch) -> Batch:
    """A batch of the changed tensors, each with those in its place in the others."""
    if not others:
        return tree_map_only(Tensor, change, x)
    return tree_map(lambda t, *rest: change(t, *rest) if isinstance(t, Tensor) else t, x, *others)


def split(x: Batch, rows: int) -> list[Batch]:
    """Its parts of at most so many samples."""
    if isinstance(x, Tensor):
        return list(x.split(rows))
    return [take(x, slice(start, start + rows)) for start in range(0, size(x), rows)]


def stacked(batches: Sequence[Batch]) -> Batch:
    """Several batches of one size as one, with a new first axis."""
    return mapped(lambda *parts: torch.stack(parts), batches[0], *batches[1:])


def opened(outputs: Any) -> Any:
    """The same outputs; dictionaries and dataclasses of the network's own are from now on seen through."""
    for _, leaf in leaves(outputs):
        if isinstance(leaf, Mapping) or is_dataclass(leaf):
            _register(type(leaf), None if isinstance(leaf, Mapping) else [f.name for f in fields(leaf)])
            return opened(outputs)
    return outputs


def _register(kind: type, names: list[str] | None) -> None:
    def flatten(whole: Any) -> tuple[list[Any], list[Any]]:
        if names is None:
            return list(whole.values()), list(whole)
        return [getattr(whole, name) for name in names], names

    def unflatten(values: Iterable[Any], names_of: Any) -> Any:
        known = dict(zip(names_of, values, strict=True))
        return kind(known) if names is None else kind(**known)

    register_pytree_node(kind, flatten, unflatten)


def part_of(outputs: Any, name: str | int | None = None) -> Tensor:
    """The part of a network's outputs that an objective reads.

    Raises:
        DataError: no such part, or outputs of several parts and none is named.

    >>> part_of({"logits": torch.ones(1), "hidden": torch.zeros(1)}, "logits")
    tensor([1.])
    """
    if isinstance(outputs, Tensor) and name is None:
        return outputs
    known: list[Any] = list(outputs) if isinstance(outputs, Mapping) else []
    if isinstance(outputs, tuple | list):
        known = list(range(len(outputs)))
    parts, kind = ", ".join(map(repr, known)), type(outputs).__name__
    if name is None:
        raise DataError(
            f"the network returns a {kind}" + (f" of {parts}" if parts else "") + ", not a tensor: say which "
            f"part the objective reads, such as output={known[0] if known else 'logits'!r}"
        )
    try:
        found = outputs[name] if known else getattr(outputs, str(name))
    except (KeyError, IndexError, AttributeError, TypeError):
        raise DataError(f"output={name!r}: the network returns a {kind} of {parts or 'no parts'}") from None
    if not isinstance(found, Tensor):
        raise DataError(f"output={name!r} of the network is a {type(found).__name__}, not a tensor")
    return found
