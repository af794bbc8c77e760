"""The interface of an objective: its samples, its loss, its metrics, and what others ask of a task.

Shape letters: S samples of a split, B batch, K subsets (tickets), C outputs of the network.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch, call, part_of
from tombola._utils.errors import DataError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.layout import Layout

Answer = Literal["class", "subset", "labels", "value"]


class Predict(Protocol):
    """Outputs of ticket k for samples of a split: all of them ``[S, ...]``, or those of ``index``."""

    def __call__(self, split: str, k: int, index: Tensor | None = None) -> Tensor:
        """The outputs, in the order of the samples asked for."""
        ...


@dataclass(frozen=True)
class Metric:
    """One measured number. ``reading`` is ``paper`` or ``like_for_like``; ``ticket`` if it has one."""

    name: str
    value: float
    reading: str = ""
    ticket: str = ""


class Objective(ABC):
    """The task of tickets: what they are trained and judged by. A new objective is one file.

    Attributes:
        answer: how outputs ``[B, C]`` are read: ``class``, logits of one class out of C; ``labels``, logits
            of C labels, each true or not; ``subset``, ticket k says at output k whether a sample is of its
            subset; ``value`` (the default), of any shape, the outputs themselves.
        router_score: what `tombola.routing.ScoreRouter` reads off the outputs; empty where nothing is known.
        sound: whether inputs and outputs are spectrograms, their last axis frequency.
        output: the part of the network's outputs that is read, by name or place, where they are several.
        context_is_answer: whether the subset is what is asked for, so that a network that is told the
            subset has nothing left to answer.
        calls_network: whether `loss_of` is the loss, because `loss` cannot be told from the outputs alone;
            such tickets are not trained as one batch.
        rows: test samples that go through a network at once.
    """

    answer: ClassVar[Answer] = "value"
    router_score: ClassVar[str] = ""
    sound: ClassVar[bool] = False
    context_is_answer: ClassVar[bool] = False
    calls_network: ClassVar[bool] = False
    rows: ClassVar[int] = 500

    def __init__(self, *, output: str | int | None = None) -> None:
        self.output = output

    def read(self, outputs: Any) -> Tensor:
        """The part of a network's outputs that the loss and the metrics are of (`DataError` if not there)."""
        return part_of(outputs, self.output)

    @abstractmethod
    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:
        """Numbers of the training samples that ticket k sees in one epoch, in a new order."""

    @abstractmethod
    def epoch_size(self, partition: Partition, k: int) -> int:
        """Number of samples that `epoch` returns."""

    @abstractmethod
    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:
        """The answers that ticket k should give for these training samples."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar; ``inputs`` are what the network was given."""

    def loss_of(self, network: nn.Module, x: Batch, targets: Tensor, k: int) -> Tensor:
        """The loss of a batch by a network that holds ``m_k ⊙ θ``; by default that of its outputs for x."""
        return self.loss(self.read(call(network, x)), targets, k, x)

    @abstractmethod
    def single(self, partition: Partition) -> Objective:
        """The same task for one network that serves all subsets (IMP single, dense)."""

    @abstractmethod
    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """All metrics on the test split; whatever is chosen is chosen on the validation split."""

    def judged(self, outputs: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """What `evaluate` reads of the outputs for samples with targets ``y``, a row each; all by default."""
        return outputs

    def of(self, data: Data, partition: Partition) -> Self:  # noqa: ARG002
        """The same, knowing what it has to of the data and partition that it is for."""
        return self

    def trainable(self, shared: Layout, head: Sequence[str], k: int) -> Tensor | None:  # noqa: ARG002
        """Entries of the dense remainder that ticket k may move; None means all of them.

        ``head`` are the parameters of which row k is read by output k alone (`tombola.training.head`).
        """
        return None

    def answers(self, partition: Partition) -> dict[str, list[int]]:  # noqa: ARG002
        """The classes with which each subset is answered, by its name; empty for all outputs."""
        return {}

    def choices(self) -> dict[str, str]:
        """Choices that runs need to have in common beside its name."""
        return {}

    def doubts(self, data: Data, partition: Partition) -> list[str]:  # noqa: ARG002
        """Warnings, in words, of what a user probably did not mean."""
        return []

    def metadata(self) -> dict[str, Any]:
        """All that a ticket file has to say of the task, because its reader may not have this class."""
        read = {} if self.output is None else {"output": self.output}
        return {"answer": self.answer, "router_score": self.router_score, **read}


class InSubset(Objective):
    """A task in which the context is given and is not the answer.

    Ticket k is trained and judged on its own subset; an epoch of it is that subset once. One network for all
    subsets (`single`) is trained on all their samples, and judged on each of them. ``original`` is the
    partition that it is judged on, None for tickets.
    """

    original: Partition | None = None

    def epoch(self, partition: Partition, k: int, generator: torch.Generator) -> Tensor:
        """The subset in a new order."""
        samples = partition.members["train"][:, k].nonzero()[:, 0]
        return samples[torch.randperm(len(samples), generator=generator)]

    def epoch_size(self, partition: Partition, k: int) -> int:
        """The size of the subset."""
        return int(partition.members["train"][:, k].sum())

    def single(self, partition: Partition) -> Self:
        """The same task for one network, trained on the samples of all subsets."""
        pooled = copy.copy(self)
        pooled.original = partition
        return pooled

    def by_subset(self, predict: Predict, partition: Partition) -> Iterator[tuple[int, str, Tensor, Tensor]]:
        """Number, name, test samples ``[B]`` and outputs ``[B, ...]`` of each subset.

        The outputs are those of the subset's ticket, or of the one network.
        """
        judged = self.original or partition
        for k, name in enumerate(judged.names):
            index = judged.members["test"][:, k].nonzero()[:, 0]
            yield k, name, index, predict("test", 0 if self.original else k, index)


def mean_and_each(name: str, values: dict[str, float], reading: str = "") -> list[Metric]:
    """A metric per ticket after their mean: every subset counts alike, whatever its size."""
    mean = sum(values.values()) / len(values)
    return [Metric(name, mean, reading), *(Metric(name, v, reading, ticket) for ticket, v in values.items())]


def means_and_each(values: Mapping[str, Mapping[str, float]], reading: str = "") -> list[Metric]:
    """Metrics per ticket, by name and ticket, after their means; where one is NaN, it is not defined.

    >>> found = means_and_each({"r2": {"cat": 0.5, "dog": float("nan")}})
    >>> [(metric.value, metric.ticket) for metric in found]
    [(0.5, ''), (0.5, 'cat')]
    """
    known = {name: {t: v for t, v in of.items() if not isnan(v)} for name, of in values.items()}
    return [metric for name, of in known.items() if of for metric in mean_and_each(name, of, reading)]


def own_rows(shared: Layout, head: Sequence[str], rows: Tensor) -> Tensor:
    """All of the dense remainder but those rows of the classifier that are not among ``rows``.

    Args:
        shared: its layout.
        head: parameters with a row for each output.
        rows: boolean; a classifier with fewer rows than these has none of its own for a ticket.
    """
    owned_R = torch.ones(shared.size, dtype=torch.bool)
    for name, view in shared.unflatten(owned_R).items():
        if name in head and len(view) >= len(rows):
            view[: len(rows)][~rows] = False
            view[len(rows) :] = False
    return owned_R


def check_shapes(outputs: Tensor, targets: Tensor, needed: str) -> None:
    """Raise `DataError` unless outputs and targets have one shape."""
    if outputs.shape != targets.shape:
        raise DataError(
            f"the network gives outputs of shape {tuple(outputs.shape)}, the targets have "
            f"{tuple(targets.shape)}: {needed}"
        )


def check_outputs(outputs: Tensor, needed: int) -> None:
    """Raise `DataError` unless the network has an output for every subset up to this number."""
    if outputs.ndim != 2 or outputs.shape[1] < needed:
        raise DataError(
            f"the network gives outputs of shape {tuple(outputs.shape)}, but subset number {needed} needs "
            f"one of its own: [batch, outputs] with as many outputs as there are subsets. OneVsRest asks "
            "which subset a sample is of; for targets in y take Classification, MultiLabel or Regression"
        )
