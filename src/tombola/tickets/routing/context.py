"""The paper's router: the context is given, or can be looked up. Shape letters: B batch, K tickets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils.batch import Batch, first, size
from tombola._utils.errors import RouterError, unknown
from tombola.data.dataset import Data
from tombola.tickets.fitted import State, Tickets
from tombola.tickets.routing.routed import Routed
from tombola.tickets.routing.router import Router

Value = str | int | float | bool


class ContextRouter(Router):
    """From a label, a column, a scene or a region map to the ticket (arXiv 2601.22141, Section 3.4).

    Args:
        contexts: value to ticket, ``{"kitchen": "indoor", 3: "indoor"}``; without it a context is the name
            of a ticket.

    ``tickets(x, context="kitchen")``, or one context per sample. A map (`from_map`) needs none: it is looked
    up with the coordinates that are the input.

    >>> router = ContextRouter({"kitchen": "indoor", "street": "outdoor"})
    >>> router.tickets_of(["street", "kitchen"], ["indoor", "outdoor"], 2)
    ['outdoor', 'indoor']
    """

    kind = "context"
    needs_fit = False
    deciding = ("map_HW",)

    def __init__(self, contexts: Mapping[Value, str] | None = None, *, mix: int = 1) -> None:
        super().__init__(mix=mix)
        pairs = [[_plain(value), name] for value, name in (contexts or {}).items()]
        self.options = {"mix": mix, "pairs": pairs}

    @classmethod
    def from_map(cls, map_HW: Any, names: Sequence[str]) -> ContextRouter:
        """By a map of regions: ``map_HW`` holds positions in ``names``; inputs begin with x, y from -1 to 1.

        x runs along the columns, y along the rows, pixel centres evenly from -1 to 1.

        >>> router = ContextRouter.from_map([[0, 1], [0, 1]], ["sky", "sea"])
        >>> router.route(None, torch.tensor([[0.9, 0.0], [-1.0, 1.0]])).names
        ['sea', 'sky']
        """
        found = torch.as_tensor(np.asarray(map_HW))
        if (
            found.ndim != 2
            or found.is_floating_point()
            or not 0 <= int(found.min()) <= int(found.max()) < len(names)
        ):
            raise RouterError(
                f"a region map is [height, width] of whole numbers from 0 to {len(names) - 1}: got "
                f"{tuple(found.shape)} {found.dtype}"
            )
        router = cls()
        router.names, router.tensors = tuple(names), {"map_HW": found.to(torch.int32)}
        return router

    def route(self, tickets: Tickets | None, x: Batch, context: Any = None) -> Routed:
        """The tickets of these contexts, or of the places ``x[:, :2]`` on the map."""
        if "map_HW" in self.tensors and context is None:
            where_B, names = self._looked_up(x), self.names
        else:
            names = tuple(tickets.names) if tickets is not None else self.names
            chosen = self.tickets_of(context, names, size(x))
            where_B = torch.tensor(
                [names.index(name) for name in chosen], device=first(x).device, dtype=torch.int64
            )
        scores_BK = torch.full((size(x), len(names)), -torch.inf, device=first(x).device)
        return Routed(
            names,
            scores_BK.scatter(1, where_B[:, None], 0.0),
            torch.ones(size(x), device=first(x).device),
            self.kind,
        )

    def extended(self, tickets: Tickets, data: Data) -> ContextRouter:  # noqa: ARG002
        """With one more entry where there is a table: the name of the ticket is its context."""
        known, tensors = self.state()
        pairs, name = self.options["pairs"], tickets.names[-1]
        more = [[name, name]] if pairs and all(value != name for value, _ in pairs) else []
        return self.restored({**known, "options": {**self.options, "pairs": [*pairs, *more]}}, tensors)

    def without(self, left: Tickets, name: str) -> ContextRouter | None:  # noqa: ARG002
        """Without the entries of this ticket; None: no entry is left, or it has places on the map."""
        known, tensors = self.state()
        pairs = [pair for pair in self.options["pairs"] if pair[1] != name]
        if self.options["pairs"] and not pairs:
            return None  # without a table contexts would be taken for names
        if name in self.names:
            k, map_HW = self.names.index(name), tensors["map_HW"]
            if bool((map_HW == k).any()):
                return None  # nobody would answer there
            tensors = {"map_HW": map_HW - (map_HW > k).to(map_HW)}
        names = [each for each in self.names if each != name]
        options = {**self.options, "pairs": pairs}
        return self.restored({**known, "options": options, "names": names}, tensors)

    def tickets_of(self, context: Any, names: Sequence[str], count: int) -> list[str]:
        """The ticket of each of ``count`` samples, from one context each or one for all."""
        if context is None:
            raise RouterError(
                "a context is needed: pass context=VALUE or one per sample, or set another router"
            )
        several = isinstance(context, Tensor | np.ndarray) or (
            isinstance(context, Sequence) and not isinstance(context, str)
        )
        values = [_plain(v) for v in context] if several else [_plain(context)] * count
        if len(values) != count:
            raise RouterError(
                f"{len(values)} contexts for {count} samples: give one per sample, or one for all"
            )
        table = dict(map(tuple, self.options["pairs"])) or {name: name for name in names}
        # Tickets of a column of numbers are named by these.
        values = [str(v) if isinstance(v, int | float) and v not in table else v for v in values]
        for value in dict.fromkeys(values):
            if value not in table:
                raise RouterError(unknown("context", value, map(str, table)))
            if table[value] not in names:
                raise RouterError(unknown("ticket", table[value], names))
        return [table[value] for value in values]

    def _looked_up(self, x: Batch) -> Tensor:
        if not isinstance(x, Tensor):
            raise RouterError(
                f"a region map is looked up with coordinates [batch, 2]: got {type(x).__name__}"
            )
        map_HW = self.tensors["map_HW"].to(x.device)
        size = torch.tensor([map_HW.shape[1], map_HW.shape[0]], device=x.device)
        if x.ndim != 2 or x.shape[1] < 2:
            raise RouterError(f"a region map is looked up with coordinates [batch, 2]: got {tuple(x.shape)}")
        at = ((x[:, :2].double() + 1) / 2 * (size - 1)).round().long().clamp(min=0)
        at = torch.minimum(at, size - 1)
        return map_HW[at[:, 1], at[:, 0]].long()

    def raw_BK(self, tickets: Tickets, x: Batch, features_BD: Tensor, distances_BK: Tensor) -> Tensor:
        """Not read: a context is no score."""
        raise NotImplementedError

    @classmethod
    def restored(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ContextRouter:
        """The inverse of `state`."""
        router = cls(dict(metadata["options"]["pairs"]), mix=metadata["options"]["mix"])
        router.names, router.tensors = tuple(metadata["names"]), dict(tensors)
        return router

    def state(self) -> State:
        """The table, and the map if there is one."""
        return {"kind": self.kind, "options": self.options, "names": list(self.names)}, dict(self.tensors)


def _plain(value: Any) -> Value:
    plain: Value = value.item() if isinstance(value, Tensor | np.generic) else value
    return plain
