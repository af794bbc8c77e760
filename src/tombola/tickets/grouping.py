"""Batches in which samples name different tickets: grouped by ticket, run, and put back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import TombolaError, UnknownTicket
from tombola._utils.torch_state import uncompiled


@uncompiled()
def asked(ticket: object, known: Sequence[str]) -> str | list[str]:
    """A name, or one name per sample; the first ticket where none is asked for."""
    if ticket is None:
        return known[0]
    if isinstance(ticket, str):
        return ticket
    several = isinstance(ticket, Iterable) and not isinstance(ticket, Tensor)
    names: list[Any] = list(ticket) if several else [ticket]  # type: ignore[call-overload]
    if strange := [name for name in names if not isinstance(name, str)]:
        hint = "" if isinstance(ticket, list | tuple) else "; the only input is x"
        raise TombolaError(
            f"ticket must be a name or one name per sample (of {', '.join(known)}), not "
            f"{type(strange[0]).__name__}{hint}"
        )
    return names


@uncompiled(recursive=False)
def grouped(
    x: Batch,
    names: Sequence[str],
    known: Sequence[str],
    run: Callable[[str, Batch], Any],
    axes: Callable[[Batch], list[int | None]] = lambda _: [0],
) -> Any:
    """Outputs of one ticket per sample, in the order of the samples.

    Args:
        x: inputs of B samples.
        names: of the ticket that answers each.
        known: all tickets.
        run: the outputs of a ticket.
        axes: the axis of the samples in each output, asked for where several tickets answer.

    >>> run = lambda name, x: x * {"cat": 10, "dog": 100}[name]
    >>> grouped(torch.arange(1, 4), ["dog", "cat", "dog"], ["cat", "dog"], run).tolist()
    [100, 20, 300]
    """
    if len(names) != batch.size(x):
        raise TombolaError(f"{len(names)} ticket names for {batch.size(x)} samples: give one name per sample")
    if not names:
        return run(known[0], x)  # the output's shape is any ticket's
    if strange := [name for name in names if name not in known]:
        raise UnknownTicket(strange[0], known)
    numbers = {name: k for k, name in enumerate(known)}
    where = torch.tensor([numbers[name] for name in names], device=batch.first(x).device)
    order = torch.argsort(where, stable=True)
    present, counts = torch.unique(where, return_counts=True)
    groups = zip(present.tolist(), order.split(counts.tolist()), strict=True)
    at = axes(x) if len(present) > 1 else None
    # No views of one x: their offsets are compiled.
    outputs = [run(known[k], _take(x, group)) for k, group in groups]
    return outputs[0] if at is None else _put_back(outputs, torch.argsort(order), at)


def _joined(values: Sequence[Tensor], axis: int, back: Tensor) -> Tensor:
    others = {(*v.shape[:axis], *v.shape[axis + 1 :]) for v in values}
    if len(others) > 1 or sum(v.shape[axis] for v in values) != len(back):
        shapes = ", ".join(str(tuple(v.shape)) for v in values)
        raise TombolaError(
            f"outputs of several tickets, {shapes} for {len(back)} samples, cannot be put together: ask one "
            "ticket at a time"
        )
    return torch.cat(list(values), axis).index_select(axis, back)


def _for_all(value: Any) -> Any:
    return value if isinstance(value, bool | str) else None


_take = uncompiled()(batch.take)


@uncompiled()  # the number of parts is another in every batch
def _put_back(outputs: list[Any], back: Tensor, axes: list[int | None]) -> Any:
    parts, spec = [tree_flatten(each)[0] for each in outputs], tree_flatten(outputs[0])[1]
    joined = [
        _for_all(values[0]) if axis is None else _joined(values, axis, back)
        for axis, values in zip(axes, zip(*parts, strict=True), strict=True)
    ]
    return tree_unflatten(joined, spec)
