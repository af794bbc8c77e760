"""Samples that are read when they are asked for, from a map-style data set, by workers of a ``DataLoader``.

What random transforms in the data set draw is a function of the batch that is read and the number of the
sample, so a run goes on where it stopped, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, WorkerDied
from tombola._utils.rng import everywhere
from tombola.data.values import check_finite, shape_of, tensor_of

Collate = Callable[[list[Any]], Any]
T = TypeVar("T")
FEW = 4  # batches that are read here rather than by workers, which take longer to start
ROWS = 256  # samples that are read at a time where all are


class Request(NamedTuple):
    """The numbers of the samples of a batch, and the seed of what their transforms draw."""

    numbers: Tensor
    seed: int = 0


@dataclass(frozen=True)
class Stored:
    """Inputs ``[S, ...]`` of a map-style data set.

    Attributes:
        dataset: what has ``len(dataset)`` and ``dataset[i]``.
        collate: from a list of ``dataset[i]`` to the network's inputs.
        workers: processes that read; 0 reads in this one.
        index: the samples of the data set that these are, int64 ``[S]``.
    """

    as_inputs: ClassVar[str] = "data.inputs(split, index)"  # what to pass to a network, for messages

    dataset: Any
    collate: Collate
    workers: int
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor | slice) -> Stored:
        """These samples, not read."""
        return replace(self, index=self.index[index])

    def __repr__(self) -> str:
        return f"stored {shape_of(self.example)}"

    @cached_property
    def example(self) -> Batch:
        """A batch of the first sample, for its shape."""
        return self.read(Request(torch.zeros(1, dtype=torch.int64)))

    def read(self, request: Request) -> Batch:
        """A batch, in this process; global random generators are left as they were.

        Raises:
            DataError: a sample that cannot be read, or that holds NaN.
        """
        numbers = self.index[request.numbers].tolist()
        found = batch.plain(self.collate(samples(self.dataset, numbers, request.seed)))
        found = batch.mapped(partial(tensor_of, "x"), found)
        for path, values in batch.tensors(found).items():
            if len(values) != len(numbers):
                rows = f"collate made {len(values)} rows of {len(numbers)} samples"
                raise DataError(f"{rows}{' in x' * bool(path)}{path}: one per sample is needed")
            check_finite(f"x{path}", values, numbers)
        return found

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """Batches in the order of the requests, which workers see before they are needed.

        Raises:
            DataError: as `read`.
            WorkerDied: a worker was killed.
        """
        return ordered(self.read, requests, self.workers)

    def all(self) -> Batch:
        """All of them, in memory."""
        parts = list(self.batches(Request(index) for index in torch.arange(len(self)).split(ROWS)))
        try:
            return batch.mapped(lambda *each: torch.cat(each), parts[0], *parts[1:])
        except RuntimeError as error:
            raise DataError(f"samples differ in shape ({error}): pad them to one, or memory=False") from None

    def fingerprint(self, most: int = 16) -> dict[str, Tensor]:
        """A few samples, by which these can be told from others without reading all."""
        spread = torch.linspace(0, len(self) - 1, min(most, len(self))).long().unique()
        singles = [self.read(Request(number[None])) for number in spread]
        return {f" {n}{path}": t for n, x in enumerate(singles) for path, t in batch.tensors(x).items()}


def samples(dataset: Any, numbers: Sequence[int], seed: int = 0) -> list[Any]:
    """``dataset[i]`` for each number, with random generators that depend on the seed and the number."""
    found = []
    with everywhere() as draw_from:
        for i in numbers:
            draw_from(seed + 1_000_003 * i)
            try:
                found.append(dataset[i])
            except DataError:
                raise
            except Exception as error:  # a data set is anybody's code
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise DataError(f"sample {i} of the data set cannot be read ({reason})") from error
    return found


def ordered(read: Callable[[Request], T], requests: Iterable[Request], workers: int) -> Iterator[T]:
    """What is read of each request, in order, by so many workers (none in a process that may have none).

    Raises:
        WorkerDied: a worker was killed.
    """
    requests = iter(requests)
    first = list(islice(requests, FEW))
    requests = chain(first, requests)
    if not workers or len(first) < FEW or multiprocessing.current_process().daemon:
        yield from map(read, requests)
        return
    loader = DataLoader(
        _Reader(read),
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        collate_fn=_same,
        generator=torch.Generator(),  # or the global one would be drawn from
    )
    try:
        for found in loader:
            if isinstance(found, DataError):
                raise found
            yield found
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise WorkerDied(
            f"a process that reads data was killed ({reason}): was there too little memory? use fewer than "
            f"{workers} workers"
        ) from None


class _Reader(Dataset[Any]):
    """What a worker holds; an error is an answer, so that it arrives as it is."""

    def __init__(self, read: Callable[[Request], Any]) -> None:
        self.read = read

    def __getitem__(self, request: Request) -> Any:
        try:
            return self.read(request)
        except DataError as error:
            return DataError(str(error))


def _same(x: Any) -> Any:
    return x
