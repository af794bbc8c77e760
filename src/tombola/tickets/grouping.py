"""Which tickets are asked for, and a batch in which they are mixed: one run of the network for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tombola._utils.errors import TombolaError, UnknownTicket
from tombola._utils.torch_state import uncompiled


@uncompiled()
def asked(ticket: object, known: Sequence[str]) -> str | list[str]:
    """A name, or one name per sample; the first ticket where none is asked for.

    Raises:
        TombolaError: something that is no name.

    >>> asked(("dog", "cat"), ["cat", "dog"])
    ['dog', 'cat']
    """
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
def grouped(x: Tensor, names: Sequence[str], known: Sequence[str], run: Callable[[str, Tensor], Any]) -> Any:
    """Outputs of one ticket per sample, in the order of the samples.

    Args:
        x: inputs ``[B, ...]``.
        names: B names.
        known: the tickets that there are.
        run: outputs of one ticket for a batch; tensors or any structure of them.

    Raises:
        TombolaError: another number of names than samples.
        UnknownTicket: a name that is not there.

    >>> run = lambda name, x: x * {"cat": 10, "dog": 100}[name]
    >>> grouped(torch.arange(1, 4), ["dog", "cat", "dog"], ["cat", "dog"], run).tolist()
    [100, 20, 300]
    """
    if len(names) != len(x):
        raise TombolaError(f"{len(names)} ticket names for {len(x)} samples: give one name per sample")
    if not names:
        return run(known[0], x)  # the output's shape is any ticket's
    if strange := [name for name in names if name not in known]:
        raise UnknownTicket(strange[0], known)
    numbers = {name: k for k, name in enumerate(known)}
    where = torch.tensor([numbers[name] for name in names], device=x.device)
    order = torch.argsort(where, stable=True)
    present, counts = torch.unique(where, return_counts=True)
    groups = zip(present.tolist(), order.split(counts.tolist()), strict=True)
    outputs = [
        run(known[k], x[group]) for k, group in groups
    ]  # no views of one x: their offsets are compiled
    return _put_back(outputs, torch.argsort(order))


@uncompiled()  # the number of parts is another in every batch
def _put_back(outputs: list[Any], back: Tensor) -> Any:
    return tree_map(lambda *group: torch.cat(group)[back], outputs[0], *outputs[1:])


def check_batch(x: Tensor, shape: Sequence[int] | None) -> None:
    """Raise `TombolaError` where x is a sample as in training, and no batch of them."""
    if shape is not None and list(x.shape) == list(shape):
        raise TombolaError(f"x is one sample, {list(x.shape)}, and no batch: pass x[None]")


@contextmanager
def inputs_named(x: Tensor, dtype: torch.dtype, shape: Sequence[int] | None) -> Iterator[None]:
    """Inputs of another dtype or shape than the network's: an error that names both, in place of torch's.

    Args:
        x: inputs ``[B, ...]``.
        dtype: of the network.
        shape: of one sample in training, where that is known. Another shape is no error by itself: many
            networks take several.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if x.dtype != dtype and "type" in str(error):
            raise TombolaError(
                f"x is {x.dtype}, the network {dtype}: pass x.to({dtype}) ({reason})"
            ) from None
        if shape is None or list(x.shape[1:]) == list(shape):
            raise
        sizes = ", ".join(map(str, shape))
        raise TombolaError(
            f"x is {list(x.shape)}, tickets were trained on [batch, {sizes}], and the network cannot take "
            f"another shape ({reason})"
        ) from None
