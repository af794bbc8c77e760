"""Micro-batches: requests for one ticket that arrive within a moment go through the network together."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola.lab.evaluation.answers import rows
from tombola.serve.registry import Meant

Rows = list[dict[str, Any]]


@dataclass
class Group:
    """Requests that can be one batch: of one ticket of one entry, with inputs of one form."""

    meant: Meant
    waiting: deque[tuple[Batch, asyncio.Future[Rows]]] = field(default_factory=deque)
    samples: int = 0


class Batcher:
    """Puts requests together and asks the tickets, in a thread of its own, one batch at a time.

    Args:
        most: samples of a batch; a request that has more is a batch by itself.
        delay: seconds that the first request of a batch waits for others. While another batch is being
            answered, all wait and more of them come together.
        observe: is told of every batch who was asked, and how many samples.
    """

    def __init__(self, most: int, delay: float, observe: Callable[[Meant, int], None]) -> None:
        self.most, self.delay, self.observe = most, delay, observe
        self._groups: OrderedDict[Any, Group] = OrderedDict()
        self._due: OrderedDict[Any, None] = OrderedDict()  # those that have waited long enough
        self._thread = ThreadPoolExecutor(1, "tickets")
        self._busy = False

    async def ask(self, meant: Meant, x: Batch) -> Rows:
        """A row for each sample (`tombola.lab.evaluation.answers`).

        Raises:
            Exception: whatever the tickets raise for these inputs, alone.
        """
        loop = asyncio.get_running_loop()
        key = (meant, _form(x))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(meant)
            loop.call_later(self.delay, self._ripe, key, group)
        future: asyncio.Future[Rows] = loop.create_future()
        group.waiting.append((x, future))
        group.samples += batch.size(x)
        if group.samples >= self.most:
            self._ripe(key, group)
        return await future

    def close(self) -> None:
        """Wait for the batch that is being answered."""
        self._thread.shutdown()

    def _ripe(self, key: Any, group: Group) -> None:
        if self._groups.get(key) is group:
            self._due[key] = None
            self._next()

    def _next(self) -> None:
        while self._due and not self._busy:
            key, _ = self._due.popitem(last=False)
            group, samples = self._groups[key], 0
            taken: list[tuple[Batch, asyncio.Future[Rows]]] = []
            while group.waiting and (not taken or samples + batch.size(group.waiting[0][0]) <= self.most):
                x, future = group.waiting.popleft()
                group.samples -= batch.size(x)
                if not future.cancelled():  # nobody waits any longer
                    taken.append((x, future))
                    samples += batch.size(x)
            if group.waiting:
                self._due[key] = None  # after the others
            else:
                del self._groups[key]
            if taken:
                self._busy = True
                self._start(group.meant, taken, samples)

    def _start(self, meant: Meant, taken: list[tuple[Batch, asyncio.Future[Rows]]], samples: int) -> None:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, answered, meant, [x for x, _ in taken])

        def done(found: asyncio.Future[list[Rows | Exception]]) -> None:
            self._busy = False
            self.observe(meant, samples)
            for (_, future), each in zip(taken, found.result(), strict=True):
                if future.cancelled():
                    continue
                if isinstance(each, Exception):
                    future.set_exception(each)
                else:
                    future.set_result(each)
            self._next()

        running.add_done_callback(done)


def answered(meant: Meant, inputs: Sequence[Batch]) -> list[Rows | Exception]:
    """Answers to several requests, from one batch; one by one where it fails, so that none fails another."""
    try:
        together = inputs[0] if len(inputs) == 1 else batch.mapped(_joined, *inputs)
        every = iter(rows(meant.entry.tickets.predict(together, meant.ticket)))
        return [[next(every) for _ in range(batch.size(x))] for x in inputs]
    except Exception as error:  # of a network: any
        if len(inputs) == 1:
            return [error]
        return [each for x in inputs for each in answered(meant, [x])]


def _joined(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts)


def _form(x: Batch) -> tuple[Any, ...]:
    """What inputs have to have in common to be one batch."""
    return tuple(
        (path, leaf.dtype, leaf.shape[1:]) if isinstance(leaf, torch.Tensor) else (path, repr(leaf))
        for path, leaf in batch.leaves(x)
    )
