"""One training problem, and a step of ticket k on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import tee
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, UsageError
from tombola._utils.rng import drawn_from, generator
from tombola.data.dataset import Data, Stream
from tombola.data.partition import Partition
from tombola.data.stored import Request, Stored
from tombola.masks.maskset import MaskSet
from tombola.objectives import Objective
from tombola.optim import MaskedOptimizer
from tombola.pruning.scores.simple import away_from_zero
from tombola.training.head import Head, find_head
from tombola.training.model import FunctionalModel, Params

if TYPE_CHECKING:
    from tombola.settings import TrainConfig


class StepCallback(Protocol):
    """A callback of one training: it may change weights and mask, or end it."""

    def __call__(self, step: int, theta: Params, optimizer: MaskedOptimizer) -> bool:
        """Called after ``step`` steps; whether the training ends here."""

    def metadata(self) -> dict[str, Any]:
        """The row to record afterwards."""


class TicketBatch(NamedTuple):
    """A batch of ticket k: inputs, targets, and what the draws of its forward pass are named by."""

    k: int
    key: tuple[Any, ...]
    x: Batch
    targets: Tensor


@dataclass
class Problem:
    """``f``, the data, the partition ``d_1 .. d_K``, the objective and the config, with one seed.

    ``order`` names a data order: another name, other batches from the same seed (twins). ``samples_seen``
    counts the training samples that went through, so that budgets can be compared. ``frozen_N`` are weights
    that no ticket of the problem may move, whatever its mask.
    """

    f: FunctionalModel
    data: Data
    partition: Partition
    objective: Objective
    config: TrainConfig
    seed: int
    order: str = ""
    samples_seen: int = 0
    frozen_N: Tensor | None = None

    def __post_init__(self) -> None:
        dtype = next(self.f.module.parameters()).dtype
        if self.config.precision != "float32" and dtype == torch.float64:
            raise UsageError(
                f"precision={self.config.precision} is for networks in float32, and does nothing to one in "
                "float64: take net.float(), or precision=float32"
            )

    def check(self, masks: MaskSet) -> None:
        """Raise `UsageError` unless there is a mask for each subset, in order, over the weights in scope."""
        if masks.names != self.partition.names:
            theirs, own = ", ".join(masks.names), ", ".join(self.partition.names)
            raise UsageError(
                f"masks are for {theirs}, subsets are {own}: give one mask per subset, in that order "
                "(MaskSet.select)"
            )
        if masks.scope != self.f.scope:
            raise UsageError("the masks are over other weights than the scope of the problem")

    def stream(self, k: int, *purpose: Any) -> Stream:
        """The batches of ticket k for one purpose (phase and round)."""
        key = (self.seed, self.order, *purpose, self.partition.names[k])
        return Stream(lambda g: self.objective.epoch(self.partition, k, g), self.config.batch_size, *key)

    def batches(self, k: int) -> int:
        """``M_k``: batches of one epoch of ticket k."""
        return -(-self.objective.epoch_size(self.partition, k) // self.config.batch_size)

    @cached_property
    def head(self) -> Head | None:
        """The output layer."""
        few = torch.arange(min(2, len(self.data.train)))
        return find_head(
            self.f.module, self.data.inputs("train", few, device=self.f.device), self.objective.read
        )

    @cached_property
    def trainable(self) -> list[Tensor | None]:
        """The entries of the shared remainder that each ticket may move."""
        rows = () if self.head is None else self.head.rows
        K = range(len(self.partition))
        found = [self.objective.trainable(self.f.shared, rows, k) for k in K]
        return [None if mask is None else mask.to(self.f.device) for mask in found]

    def draw(self, turns: Iterable[tuple[int, Stream, int]]) -> Iterator[TicketBatch]:
        """Batch i of ticket k from its stream, turn after turn, augmented; what is stored is read ahead.

        A batch is counted when it is taken.
        """
        drawn, ahead = tee((k, stream, i, stream[i], self._random(stream, i)) for k, stream, i in turns)
        requests = (Request(index, g.initial_seed() if g else 0) for *_, index, g in ahead)
        for (k, stream, i, index, g), stored in zip(drawn, self.data.train.read(requests), strict=True):
            x = self.data.prepared("train", index, stored, g, self.f.device)
            self.samples_seen += len(index)
            targets = self.objective.targets(self.data, self.partition, index, k).to(self.f.device)
            yield TicketBatch(k, (*stream.key, "forward", i), x, targets)

    def _random(self, stream: Stream, i: int) -> torch.Generator | None:
        """What batch i is augmented by."""
        random = self.data.augment is not None or isinstance(self.data.train.x, Stored)
        return generator(*stream.key, "augment", i) if random else None

    def loss(self, theta: Params, mask_N: Tensor | None, batch: TicketBatch) -> Tensor:
        """``L(f(x; m_k ⊙ θ), y)`` of a batch of ticket k, as in training, with its graph."""
        k, key, x, targets = batch
        own = k if len(theta.private) > 1 else 0
        drawn, passes = drawn_from(*key, device=self.f.device), self.config.passes(self.f.device)
        with drawn, passes, self.f.network(theta, mask_N, own) as network:
            return self.objective.loss_of(network, x, targets, k)

    def gradient(self, theta: Params, mask_N: Tensor, batch: TicketBatch) -> Tensor:
        """Add ``∇_θ L(f(x; m_k ⊙ θ), y)`` of a batch to the leaves' gradients; returns the loss."""
        loss = self.loss(theta, mask_N, batch)
        loss.backward()
        return loss.detach()

    def masks(self, theta: Params, mask_N: Tensor, k: int) -> list[Tensor | None]:
        """The trainable part of `Params.leaves` for ticket k: of its mask what is not frozen, its rows of the
        rest, all its own.

        Private parts of others have no gradient in its step, so they stay as they are.
        """
        moved_N = mask_N if self.frozen_N is None else mask_N & ~self.frozen_N
        return [moved_N, self.trainable[k], *[None] * len(theta.private)]

    def train(
        self,
        theta: Params,
        mask_N: Tensor,
        k: int,
        T: int,
        *purpose: Any,
        moved_N: Tensor | None = None,
        config: TrainConfig | None = None,
        callbacks: Sequence[StepCallback] = (),
    ) -> float:
        """At most T steps of ticket k alone, in place, by a new optimiser; returns the mean loss.

        Args:
            theta: the weights; what ticket k does not own keeps its bits.
            mask_N: ``m_k``; a callback may change it in place.
            k: the ticket.
            T: steps.
            purpose: names the data order.
            moved_N: if given, gets ``−Σ_t g_t ⊙ θ_t`` of the weights in scope (the score ``movement``).
            config: another one than the problem's.
            callbacks: look on after every step; a training ends where one of them says so.
        """
        config = config or self.config
        stream, optimizer = self.stream(k, *purpose), config.build(theta.leaves())
        total, done = torch.zeros((), device=self.f.device), 0
        self.f.train()
        for batch in self.draw((k, stream, i) for i in range(T)):
            set_rate(optimizer, config.rate(done, T))
            optimizer.zero_grad()
            total += self.gradient(theta, mask_N, batch)
            if moved_N is not None and theta.weights_N.grad is not None:
                moved_N += away_from_zero(theta.weights_N, theta.weights_N.grad)
            optimizer.step(self.masks(theta, mask_N, k))
            done += 1
            ends = [one(done, theta, optimizer) for one in callbacks]  # each of them is asked
            if any(ends):
                break
        return finite(float(total) / max(done, 1), self.partition.names[k])

    def inputs(self, k: int, count: int, *purpose: Any) -> Iterator[Batch]:
        """``count`` batches of ticket k's training inputs, not augmented."""
        stream = self.stream(k, *purpose)
        return self.data.batches("train", map(stream.__getitem__, range(count)), self.f.device)


def set_rate(optimizer: MaskedOptimizer, lr: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def finite(loss: float, ticket: str) -> float:
    """The loss, or an error that names the ticket."""
    if not math.isfinite(loss):
        raise DataError(
            f"the loss of ticket {ticket!r} became {loss}: lower the learning rate, or check its data"
        )
    return loss
