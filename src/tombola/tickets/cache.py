"""The masked weights of tickets, kept while there is room, so that a ticket asked again costs no product.

Kept is what a ticket runs on: its own copy of the weights in scope, and views of what is private to it. A
ticket whose sources (weights, masks, private tensors) have been written to or replaced since is made anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tombola._utils.errors import TombolaError, UsageError
from tombola._utils.replica import Replica

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Kept:
    """The tensors of a ticket, and replicas of the backbone with them that no pass is using now."""

    named: Named
    bytes: int
    sources: list[Tensor]  # aliases, not the tensors: as long as they live, nothing else gets their memory
    versions: list[int]
    own: list[Tensor]  # one for each piece of new memory: a network may write to its weights
    own_versions: list[int]
    idle: list[Replica] = field(default_factory=list)

    def current(self, sources: Sequence[Tensor]) -> bool:
        """Whether nothing was written to the sources or the tensors since."""
        return (
            _versions(sources) == self.versions
            and [t.data_ptr() for t in sources] == [t.data_ptr() for t in self.sources]
            and _versions(self.own) == self.own_versions
        )


class WeightCache:
    """Masked weights of the tickets that were asked last, in at most ``max_bytes``.

    ``tickets.cache = WeightCache(max_bytes)`` turns it on, None turns it off. It serves what is asked without
    gradients (``torch.no_grad``, ``torch.inference_mode``, `tombola.TicketModel.predict`); with gradients
    weights are multiplied by their mask as ever. Where there is no room the ticket that was not asked for
    longest goes. Counted are the weights in scope; private tensors are views of the model's own.

    Weights that were changed (optimisers, ``load_state_dict``, ``copy_``, another dtype or device, other
    parameters) are noticed, by memory and by torch's version counters. Writing through ``.data`` or NumPy
    passes by those: call `clear` afterwards. Copies and pickles of a cache are empty. Threads may share it.

    Raises:
        UsageError: ``max_bytes`` is not a positive whole number.

    >>> from tombola import Layout, MaskSet, TicketModel
    >>> net = torch.nn.Linear(4, 3)
    >>> masks = MaskSet(Layout(("weight",), ((3, 4),)), {"cat": torch.arange(12) > 4})
    >>> tickets = TicketModel(net, masks).eval()
    >>> tickets.cache = WeightCache(max_bytes=1_000_000)
    >>> with torch.no_grad():
    ...     _ = tickets(torch.rand(2, 4), ticket="cat"), tickets(torch.rand(2, 4), ticket="cat")
    >>> tickets.cache
    WeightCache(max_bytes=1000000): 1 ticket in 48 bytes, 1 asked for again, 1 made
    """

    def __init__(self, max_bytes: int) -> None:
        if not isinstance(max_bytes, int) or max_bytes < 1:
            raise UsageError(f"max_bytes must be a positive whole number of bytes: got {max_bytes!r}")
        self.max_bytes = max_bytes
        self.hits, self.made = 0, 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # asked last is last
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes that are held now."""
        return sum(kept.bytes for kept in self._kept.values())

    @property
    def tickets(self) -> list[str]:
        """Names of the tickets whose weights are held; the first will go first."""
        return list(self._kept)

    def clear(self) -> None:
        """Forget everything, after weights were written to through ``.data`` or NumPy."""
        with self._lock:
            self._kept.clear()

    def get(self, ticket: str, sources: Sequence[Tensor], make: Callable[[], Named]) -> Kept:
        """The tensors of a ticket, kept or new ones from ``make``; ``sources`` are all that it reads.

        Raises:
            TombolaError: one ticket alone has no room.
        """
        if any(t.is_inference() for t in sources):  # these have no version counters
            return Kept(make(), 0, [], [], [], [])
        with self._lock:
            kept = self._kept.get(ticket)
            if kept is not None and kept.current(sources):
                self._kept.move_to_end(ticket)
                self.hits += 1
                return kept
            self._kept.pop(ticket, None)  # before the new one is made: never both
        kept = _made(sources, make)
        if kept.bytes > self.max_bytes:
            raise TombolaError(
                f"the weights of ticket {ticket!r} take {kept.bytes:,} bytes, the cache has room for "
                f"{self.max_bytes:,}: raise max_bytes, or set cache to None"
            )
        with self._lock:
            self._kept.pop(ticket, None)  # another thread may have made it too
            while self._kept and self.bytes + kept.bytes > self.max_bytes:
                self._kept.popitem(last=False)
            self._kept[ticket] = kept
            self.made += 1
        return kept

    def __reduce__(self) -> tuple[type[WeightCache], tuple[int]]:
        return WeightCache, (self.max_bytes,)

    def __repr__(self) -> str:
        count = f"{len(self._kept)} ticket{'' if len(self._kept) == 1 else 's'} in {self.bytes:,} bytes"
        return (
            f"WeightCache(max_bytes={self.max_bytes}): {count}, {self.hits} asked for again, {self.made} made"
        )


def _made(sources: Sequence[Tensor], make: Callable[[], Named]) -> Kept:
    aliases, versions = [t.detach() for t in sources], _versions(sources)
    with torch.inference_mode(False), torch.no_grad():  # what is kept serves in both modes
        named = make()
    shared = {t.untyped_storage().data_ptr() for t in sources}
    new = {t.untyped_storage().data_ptr(): t for t in named.values()}
    own = [t for place, t in new.items() if place not in shared]
    size = sum(t.untyped_storage().nbytes() for t in own)
    return Kept(named, size, aliases, versions, own, _versions(own))


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    return [t._version for t in tensors]
