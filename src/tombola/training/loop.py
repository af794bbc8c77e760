"""A training loop of the user's own in Algorithm 1, in place of `Problem.train`.

The loop is ``loop(net, optimizer, batches, ticket)``. It trains ``net``, a module that is ``f(x; m_k ⊙ θ)``,
on ``batches``, calls ``backward`` and ``step`` itself, and returns its mean loss. So clipping, accumulation,
autocast, schedulers and losses are its own. What stays Tombola's: where the training starts, the batches and
their order, the optimiser (that of the settings, masked), and what becomes of the mask afterwards.

Shape letters: N weights in scope, R the dense remainder that tickets share.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch
from tombola._utils.errors import UsageError
from tombola._utils.rng import drawn_from
from tombola.objectives import Objective
from tombola.optim import MaskedOptimizer
from tombola.pruning.scores.simple import away_from_zero
from tombola.training.model import FunctionalModel
from tombola.training.trainer import Problem, TicketBatch, finite, set_rate

if TYPE_CHECKING:
    from tombola.settings import TrainConfig
    from tombola.training.pruning_context import TicketContext
    from tombola.training.ticket import Training

BATCHED = "parallel=batched trains all tickets in one loop: a train_loop needs parallel=workers or no"
TrainLoop = Callable[["TicketNet", MaskedOptimizer, "Batches", str], float | Tensor]


class TicketNet(nn.Module):
    """``f(x; m_k ⊙ θ)`` as a module: called as the backbone is, its parameters are flat vectors.

    Args:
        f: the backbone as a function.
        objective: what ``loss`` is of.
        context: theta, whose leaves become the parameters of this module, the mask and k.
    """

    def __init__(self, f: FunctionalModel, objective: Objective, context: TicketContext) -> None:
        super().__init__()
        theta, self.mask_N, self.ticket = context.theta, context.mask_N, context.k
        self._f, self._objective, self._theta = f, objective, theta
        self._k = context.k if len(theta.private) > 1 else 0
        self.weights_N = theta.weights_N = nn.Parameter(theta.weights_N.detach())
        self.shared_R = theta.shared_R = nn.Parameter(theta.shared_R.detach())
        self.private_P = theta.private[self._k] = nn.Parameter(theta.private[self._k].detach())

    def forward(self, *x: Any, **inputs: Any) -> Any:
        """Outputs of the network: ``net(x)``, with x as in batches, or ``net(*x)``, ``net(**x)``."""
        given: Batch = inputs or (x[0] if len(x) == 1 else x)
        return self._f(self._theta, self.mask_N, given, self._k)

    def loss(self, x: Batch, targets: Tensor) -> Tensor:
        """The loss of the objective for a batch, with its graph."""
        with self._f.network(self._theta, self.mask_N, self._k) as network:
            return self._objective.loss_of(network, x, targets, self.ticket)

    def train(self, mode: bool = True) -> TicketNet:
        """Put the network into training mode, all but frozen norms, or into evaluation mode."""
        super().train(mode)
        if mode:
            self._f.train()
        else:
            self._f.module.eval()
        return self


class Batches:
    """T batches of a ticket, inputs and targets, in the order of the search; each is read once.

    >>> len(Batches(iter([]), T=5))
    5
    """

    def __init__(self, drawn: Iterator[TicketBatch], T: int) -> None:
        self._drawn, self._T = drawn, T
        self.ended = False  # a callback has ended the training

    def __len__(self) -> int:
        return self._T

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        while not self.ended and (batch := next(self._drawn, None)) is not None:
            yield batch.x, batch.targets


def run(loop: TrainLoop, problem: Problem, training: Training, T: int, order: tuple[Any, ...]) -> float:
    """Train a ticket by a loop of the user's own, in place; its mean loss.

    Raises:
        UsageError: the loop returned no loss, or moved what is not the ticket's.
        DataError: the loss is not finite.
    """
    context, callbacks = training.context, training.callbacks
    config, name = training.config or problem.config, problem.partition.names[context.k]
    stream, net = problem.stream(context.k, *order), TicketNet(problem.f, problem.objective, context)
    batches = Batches(problem.draw((context.k, stream, i) for i in range(T)), T)
    trainable, done = problem.trainable[context.k], 0
    optimizer = config.build(list(net.parameters()))
    optimizer.masks = [context.mask_N, trainable, None]
    set_rate(optimizer, config.lr)
    rest_R = context.theta.shared_R.detach().clone()

    def before(*_: Any) -> None:
        if context.moved_N is not None and net.weights_N.grad is not None:
            context.moved_N += away_from_zero(net.weights_N, net.weights_N.grad)

    def after(*_: Any) -> None:
        nonlocal done
        done += 1
        ends = [one(done, context.theta, optimizer) for one in callbacks]  # each of them is asked
        batches.ended |= any(ends)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    net.train()
    with drawn_from(*stream.key, "loop", device=problem.f.device):
        loss = loop(net, optimizer, batches, name)
    if (mean := _number(loss)) is None:
        kind = type(loss).__name__
        raise UsageError(f"train_loop returned {kind} for ticket {name!r}: return the mean loss of its steps")
    off_N, off_R = ~(context.first_N | context.mask_N), None if trainable is None else ~trainable
    moved = bool(context.theta.weights_N.detach()[off_N].any())
    if moved or (off_R is not None and not torch.equal(net.shared_R.detach()[off_R], rest_R[off_R])):
        raise UsageError(
            f"train_loop moved weights that ticket {name!r} does not own: step the optimizer given"
        )
    if T and not done:
        raise UsageError(f"train_loop made no step for ticket {name!r}: step the optimizer it is given")
    return finite(mean, name)


def _number(value: object) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float | np.number) else None


def check_loop(loop: object, config: TrainConfig, parallel: str) -> None:
    """Raise `UsageError` unless a loop can be called as it will be, and only what is not its own is set."""
    if parallel in ("batched", "batched_ranks"):
        raise UsageError(BATCHED)
    try:
        inspect.signature(loop).bind(None, None, None, "ticket")  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageError(
            "train_loop is a function of the network, the optimizer, the batches and the ticket's name: "
            f"loop(net, optimizer, batches, ticket); got {loop!r}"
        ) from None
    if config.rate(0, 100) != config.lr or config.rate(99, 100) != config.lr:
        raise UsageError(
            "train_loop has the course of the learning rate in its own hands: leave search.lr_schedule at "
            "constant and search.warmup at 0"
        )
    if config.precision != "float32":
        raise UsageError(
            "train_loop computes its passes itself: leave search.precision at float32, and write `with "
            "torch.autocast(...)` into the loop"
        )


def identity(loop: TrainLoop) -> str:
    """The name of a loop and a hash of its source text; not of what it calls or closes over.

    Raises:
        UsageError: there is no source to be read.
    """
    shown = loop if hasattr(loop, "__qualname__") else type(loop)
    name = f"{shown.__module__}.{shown.__qualname__}"
    try:
        source = inspect.getsource(shown)
    except (OSError, TypeError):
        raise UsageError(
            f"the source of train_loop {name} cannot be read, so that a run with out= could not tell when it "
            "has changed: write it into a file"
        ) from None
    return f"{name} {hashlib.sha256(source.encode()).hexdigest()[:16]}"
