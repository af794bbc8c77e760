"""The processes of one job (``torchrun``): how they come together, and what they tell each other.

Every rank runs the same program and calls what is here in the same order. A rank that waits looks at what the
other last showed of itself, in the store of the process group; so it may wait for as long as the other is
alive, and can say who is not. Content goes over gloo.
"""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from secrets import token_hex
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store  # torch has no public name for it

from tombola._utils.errors import RankLost, RunError, UsageError

TIMEOUT = "TOMBOLA_TIMEOUT"  # the variable that holds the seconds a rank may be silent
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun
GRACE = 3.0  # seconds in which all ranks that wait have noticed that one is missing
EVERY = 1.0  # seconds between two signs of life
GO_ON = "the same command goes on from the last saved state"


def limit() -> float:
    """Seconds that a rank may be silent: half an hour, or what ``TOMBOLA_TIMEOUT`` says."""
    given = os.environ.get(TIMEOUT, "1800")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise UsageError(f"{TIMEOUT} is a number of seconds above 0: got {given!r}")
    return seconds


@contextmanager
def joined() -> Iterator[None]:
    """A process group on gloo while this lasts, where torchrun's variables are set and there is none yet."""
    if dist.is_initialized() or any(name not in os.environ for name in VARIABLES):
        yield
        return
    wait = timedelta(seconds=limit())
    store, rank, size = next(dist.rendezvous("env://", timeout=wait))
    own = dist.PrefixStore(_attempt(store, rank, size), store)
    dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=wait)
    try:
        yield
    finally:
        global _known
        _known = None
        gc.collect()  # what still holds the group would abort the interpreter at its exit
        dist.destroy_process_group()


def _attempt(store: dist.Store, rank: int, size: int) -> str:
    """A name for this start of the job that all its ranks agree on.

    After a restart torchrun gives the same store again, where gloo would find the addresses of processes that
    are dead. Rank 0 offers a name, the others answer with names of their own, and rank 0 says whom it heard;
    who is not among them has answered an offer from before the restart.
    """
    me = token_hex(8)
    if rank == 0:
        store.set("tombola/offer", me)
        heard = [store.get(f"tombola/{me}/{other}").decode() for other in range(1, size)]
        store.set(f"tombola/{me}/heard", " ".join(heard))
        return me
    began = time.monotonic()
    while time.monotonic() - began < limit():
        offer: str = store.get("tombola/offer").decode()
        store.set(f"tombola/{offer}/{rank}", me)
        key = f"tombola/{offer}/heard"
        if store.check([key]) and me in store.get(key).decode():
            return offer
        time.sleep(0.05)
    raise RankLost(f"rank 0 has not begun in {limit():g} s: {GO_ON}")


_known: tuple[Any, Ranks] | None = None


def ranks() -> Ranks:
    """The ranks of the process group that is initialised; one for each group."""
    global _known
    if _known is None or _known[0] is not dist.group.WORLD:
        _known = dist.group.WORLD, Ranks()
    return _known[1]


class Ranks:
    """All processes of the default group, seen from one of them.

    Attributes:
        rank: the number of this one; 0 is the one that writes.
        size: how many there are, N.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._limit, self._store = limit(), _get_default_store()
        # Content lies on the CPU, which the default group may not serve.
        own = dist.get_backend() == "gloo"
        self._group = None if own else dist.new_group(backend="gloo")
        self._turn, self._shown_at, self._key = 0, -EVERY, "tombola"
        self._status: dict[str, Any] = {"told": 0, "bytes": 0, "at": "its start", "beat": 0}
        names = [token_hex(8)]  # what earlier processes left in the store is not read
        self._collective(lambda: dist.broadcast_object_list(names, 0, group=self._group))
        self._key = f"tombola/{names[0]}"
        self._show()

    # -- signs of life -------------------------------------------------------------------------------

    def at(self, place: str) -> None:
        """Show the others where this rank is."""
        self._status["at"] = place
        self._show()

    def beat(self) -> None:
        """Show the others, once in a while, that this rank is alive."""
        if time.monotonic() - self._shown_at >= EVERY:
            self._show()

    def _show(self) -> None:
        self._status["beat"] += 1
        self._shown_at = time.monotonic()
        with _explained(self._lost):
            self._store.set(f"{self._key}/{self.rank}", json.dumps(self._status))

    def _seen(self, rank: int) -> dict[str, Any]:
        key = f"{self._key}/{rank}"
        with _explained(self._lost):
            found: dict[str, Any] = json.loads(self._store.get(key)) if self._store.check([key]) else {}
        return found

    # -- what is said --------------------------------------------------------------------------------

    def tell(self, value: Any = None, source: int = 0) -> Any:
        """The value of one rank, on every rank; the others need not give one. Its tensors arrive on the CPU.

        Raises:
            RankLost: it was silent for too long, or has ended.
        """
        self._turn += 1
        if self.rank == source:
            content = _pickled(value)
            self._status |= {"told": self._turn, "bytes": len(content)}
            self._show()
        else:
            content = bytes(self._await(source))
        data_B = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._collective(lambda: dist.broadcast(data_B, source, group=self._group))
        return value if self.rank == source else pickle.loads(data_B.numpy().tobytes())

    def agree(self, what: str, value: str) -> None:
        """Raise `RunError` on every rank unless all have the same value."""
        values: list[Any] = [None] * self.size
        self._collective(lambda: dist.all_gather_object(values, value, group=self._group))
        for rank, other in enumerate(values):
            if other != values[0]:
                raise RunError(
                    f"{what} differ between ranks: {values[0][:16]} on rank 0, {other[:16]} on rank {rank}: "
                    "give all the same data, seeds and versions"
                )

    def sum(self, vector: Tensor, of: Callable[[int], str] = str) -> None:
        """``Σ_ranks vector``, in place and with the same bits on every rank; ``of(rank)`` names its work."""
        host = vector.cpu()  # itself, if it is there
        self._collective(lambda: dist.all_reduce(host, group=self._group), of)
        if host is not vector:
            vector.copy_(host)

    # -- what goes wrong -----------------------------------------------------------------------------

    def _await(self, source: int) -> int:
        """The bytes that a rank is about to send; returns when it is."""
        since, last, pause = time.monotonic(), -1, 0.001
        while (seen := self._seen(source)).get("told", 0) < self._turn:
            if seen.get("beat", -1) != last:
                since, last = time.monotonic(), seen.get("beat", -1)
            if time.monotonic() - since > self._limit:
                raise RankLost(self._silent([source], seen.get("at", "its start")))
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return int(seen["bytes"])

    def _collective(self, work: Callable[[], Any], of: Callable[[int], str] | None = None) -> None:
        with _explained(lambda error: self._lost(error, of)):
            work()

    def _lost(self, error: RuntimeError, of: Callable[[int], str] | None = None) -> str:
        """Who is missing: of the ranks that time out together, those that do not say so."""
        if "imed out" not in str(error) and "timeout" not in str(error).lower():
            return f"another rank has ended while rank {self.rank} waited for it: {GO_ON}"
        key = f"{self._key}/waited/{self._turn}"
        try:
            self._store.set(f"{key}/{self.rank}", "")
            time.sleep(GRACE)
            silent = [rank for rank in range(self.size) if not self._store.check([f"{key}/{rank}"])]
            places = [of(rank) if of else self._seen(rank).get("at", "its start") for rank in silent]
        except RuntimeError:
            silent, places = [], []
        return self._silent(silent, ", ".join(dict.fromkeys(places)))

    def _silent(self, silent: list[int], at: str) -> str:
        who = f"rank {' and '.join(map(str, silent))}" if silent else "a rank"
        return f"{who} has been silent for {self._limit:g} s, at {at or 'an unknown place'}: {GO_ON}"


class _Portable(pickle.Pickler):
    """Tensors as if they lay on the CPU: another rank has other devices."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not value.is_cpu:
            return (
                value.detach()
                .cpu()
                .requires_grad_(value.requires_grad)
                .__reduce_ex__(pickle.DEFAULT_PROTOCOL)
            )
        return NotImplemented


def _pickled(value: Any) -> bytes:
    memory = io.BytesIO()
    _Portable(memory, pickle.DEFAULT_PROTOCOL).dump(value)
    return memory.getvalue()


@contextmanager
def _explained(words: Callable[[RuntimeError], str]) -> Iterator[None]:
    """`RankLost` in place of what torch raises where a connection breaks or times out."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(words(error)) from error
