"""A probe: random inputs by which a file of tickets knows its network, and what comes out.

Two networks can have the same weights and compute something else: another number of heads or activation.
Others print differently and compute the same: another dropout rate, a compiled wrapper. So a ticket file
holds outputs of its first ticket. Of the inputs it holds the description alone (shape, dtype and range of
each tensor): the numbers are drawn anew by a generator that NumPy has frozen, and are nobody's data.
All is computed on the CPU, where devices do not differ and an index out of range is an ordinary error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import TombolaError
from tombola.tickets.passes import evaluating

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel

ROWS = 2  # samples
NUMBERS = 64  # of each output that are kept, evenly spaced
MOST = 1 << 24  # numbers in inputs; with more there is no probe
TOLERANCE = 1e-4  # how far outputs may be apart, as a share of their size: machines round differently
COARSE = 5e-2  # of 16 bits and less

Outputs = dict[str, Tensor]  # numbers of each output, by its path and shape


def described(x: Batch) -> Any:
    """What `inputs` needs to draw others like these, as JSON; None where that cannot be said.

    >>> described({"ids": torch.tensor([[3, 7, 5]]), "cache": None})
    {'dict': {'ids': {'tensor': [3], 'dtype': 'int64', 'range': [3, 7]}, 'cache': {'value': None}}}
    """
    try:
        known = _described(batch.plain(x))
    except (TypeError, ValueError, RuntimeError):
        return None
    return known if _size(known) <= MOST else None


def _described(x: Any) -> dict[str, Any]:
    if isinstance(x, Tensor):
        kind = bool if x.dtype == torch.bool else float if x.is_floating_point() else int
        ends = [kind(end) for end in (x.amin().item(), x.amax().item())] if x.numel() else [kind(), kind()]
        if not all(map(math.isfinite, ends)):
            raise ValueError("no range")
        return {"tensor": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch."), "range": ends}
    if type(x) is dict and all(isinstance(name, str) for name in x):
        return {"dict": {name: _described(part) for name, part in x.items()}}
    if isinstance(x, tuple | list):
        return {type(x).__name__: [_described(part) for part in x]}
    if isinstance(x, bool | str | None):
        return {"value": x}
    raise TypeError(type(x).__name__)


def _size(known: Any) -> int:
    """Numbers in what a description describes."""
    if "tensor" in known:
        return ROWS * math.prod(known["tensor"])
    parts = known.get("dict", {}).values() or known.get("tuple", known.get("list", ()))
    return sum(map(_size, parts))


def inputs(known: Any) -> Batch:
    """Random inputs of a description: always the same.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is none.

    >>> inputs({"tuple": [{"tensor": [3], "dtype": "int64", "range": [3, 7]}]})
    (tensor([[5, 6, 6],
            [5, 5, 6]]),)
    """
    if _size(known) > MOST:
        raise ValueError("more numbers than a probe may have")
    return _inputs(known, np.random.RandomState(0))


def _inputs(known: Any, random: np.random.RandomState) -> Any:
    if "tensor" in known:
        dtype, (low, high) = getattr(torch, known["dtype"]), known["range"]
        share = torch.from_numpy(random.random_sample((ROWS, *known["tensor"])))
        if not dtype.is_floating_point:
            return (low + share * (high - low + 1)).floor().clamp(low, high).to(dtype)
        return (low + share * (high - low)).to(dtype)
    if "dict" in known:  # in the order of a JSON file, whatever that of the caller was
        return {name: _inputs(part, random) for name, part in sorted(known["dict"].items())}
    for name, kind in (("tuple", tuple), ("list", list)):
        if name in known:
            return kind([_inputs(part, random) for part in known[name]])
    return known["value"]


@torch.no_grad()
def outputs(tickets: TicketModel, known: Any, seed: int = 0) -> Outputs:
    """Numbers of the outputs of the first ticket, in evaluation mode; nothing is changed by it.

    Raises:
        Exception: whatever the network raises at such inputs.
    """
    x, backbone = inputs(known), tickets.backbone
    named = {**dict(backbone.named_parameters()), **tickets.made(0)}
    named |= {name: t.clone() for name, t in backbone.named_buffers() if name not in named}
    with evaluating(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = batch.call(tickets.replica({name: t.cpu() for name, t in named.items()}).module, x)
    leaves = [(path, t) for path, t in batch.leaves(batch.opened(found)) if isinstance(t, Tensor)]
    return {f"{path} {list(t.shape)}": _some(t) for path, t in leaves if t.is_floating_point() and t.numel()}


def _some(output: Tensor) -> Tensor:
    flat = output.reshape(-1)
    return flat[torch.linspace(0, len(flat) - 1, min(len(flat), NUMBERS)).long()].cpu()


def of(tickets: TicketModel, x: Batch) -> Any:
    """The description of inputs by which a file is to know these tickets.

    Raises:
        TombolaError: the network cannot take random inputs like these, or answers otherwise each time.
    """
    known, head = described(x), "like= are inputs by which a file knows the network, but "
    if known is None:
        raise TombolaError(
            f"{head}such inputs cannot be described: they are too many, or hold no finite numbers"
        )
    try:
        first, second = (outputs(tickets, known, seed) for seed in (0, 1))
    except Exception as error:  # the network's own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TombolaError(f"{head}it cannot take random ones like these ({reason})") from None
    if not first or difference(first, second) is not None:
        raise TombolaError(f"{head}its outputs are no numbers, or others each time")
    return known


def recorded(tickets: TicketModel) -> Outputs:
    """What a file keeps of these tickets: nothing of unknown inputs, or of outputs that are chance."""
    if (known := tickets.metadata.get("probe")) is None:
        return {}
    try:
        first, second = (outputs(tickets, known, seed) for seed in (0, 1))
    except Exception:  # the network's own: it does not take such inputs
        return {}
    return first if difference(first, second) is None else {}


def refused(tickets: TicketModel, stored: Outputs) -> str | None:
    """How these tickets differ from those of a file with these outputs; None where they compute the same."""
    try:
        given = outputs(tickets, tickets.metadata["probe"])
    except Exception as error:  # the network's own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"the given backbone cannot take the probe of the file ({reason})"
    return difference(stored, given)


def difference(stored: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """How outputs differ, in a few words; None where they agree.

    >>> difference({" [2]": torch.tensor([3.0, 4.0])}, {" [2]": torch.tensor([3.0, 4.5])})
    'outputs on the probe of the file differ by 0.1 of their size (0.0001 may be rounding)'
    """
    if stored.keys() != given.keys():
        here, there = (", ".join(f"output{name}" for name in names) or "none" for names in (given, stored))
        return f"outputs on the probe of the file are {here}, and {there} in the file"
    for name, mine in stored.items():
        if mine.shape != given[name].shape or mine.dtype != given[name].dtype:
            return (
                f"output{name} on the probe of the file is {given[name].dtype}, and {mine.dtype} in the file"
            )
        one, other = mine.double().nan_to_num(), given[name].double().nan_to_num()
        apart = float((one - other).norm() / one.norm().clamp(min=1e-12))
        most = TOLERANCE if mine.dtype.itemsize > 2 else COARSE
        if not apart <= most:
            return (
                f"outputs on the probe of the file differ by {apart:.2g} of their size "
                f"({most:.2g} may be rounding)"
            )
    return None
