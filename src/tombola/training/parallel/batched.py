"""All trainings of a round in one batch: the network under ``torch.func.vmap`` over stacked weights.

The weights of the K tickets are one leaf ``[K, N]`` that one masked optimiser steps; masked optimisers work
entry by entry, so the rule is that of one ticket after the other. Each ticket has its own batches, in the
order as ever, and its own loss; the gradient of their sum holds that of each ticket in its row. Running
statistics are stacked too, and move as they would alone. The backbone's module is called as a function.

Equal to one after the other up to rounding: products of stacked matrices add in another order. Networks that
draw random numbers while they train (dropout) would draw others, so they are refused. What looks into a
training (Early-Bird, SET, RigL, learned masks) sees one after the other.

Shape letters: K tickets, N weights in scope, R the dense remainder, P private parameters, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap

from tombola._utils.batch import Batch, part_of, stacked
from tombola._utils.errors import UsageError
from tombola.objectives import Objective
from tombola.pruning.scores.simple import away_from_zero
from tombola.training.model import FunctionalModel, Params
from tombola.training.pruning_context import TicketContext
from tombola.training.trainer import Problem, finite, set_rate

if TYPE_CHECKING:
    from tombola.settings import TrainConfig
    from tombola.training.ticket import TicketJob, TicketResult, TicketTrainer

Buffers = dict[str, Tensor]


class Batched:
    """The jobs of a round trained as one batch (a `tombola.training.parallel.Mapper`)."""

    def __init__(self, train_ticket: TicketTrainer) -> None:
        check(train_ticket.problem.objective)
        self.train_ticket = train_ticket

    def __call__(self, jobs: Sequence[TicketJob]) -> Iterator[TicketResult]:
        """The results in order; a single one, and those that a callback looks into, one after the other."""
        trainer = self.train_ticket
        trainings = [trainer.begin(job) for job in jobs]
        if len(jobs) > 1 and not any(training.callbacks for training in trainings):
            config = trainings[0].config or trainer.problem.config
            losses = train([training.context for training in trainings], trainer.T, config)
        else:
            losses = [trainer.train(training) for training in trainings]
        for job, training, loss in zip(jobs, trainings, losses, strict=True):
            yield trainer.finish(job, training, loss)

    def close(self) -> None:
        """Nothing is held."""


def check(objective: Objective) -> None:
    """Raise `UsageError` where the loss calls the network itself, which is there for one ticket at a time."""
    if objective.calls_network:
        raise UsageError(
            f"the loss of {type(objective).__name__} calls the network itself, so its tickets cannot be "
            "trained as one batch: use parallel=workers or no"
        )


class Stack:
    """The weights of K tickets as stacked leaves, and their outputs in one pass.

    Args:
        f: the backbone.
        contexts: of the tickets, all of one problem.
    """

    def __init__(self, f: FunctionalModel, contexts: Sequence[TicketContext]) -> None:
        self.f, self.contexts = f, contexts
        thetas = [e.theta for e in contexts]
        self.weights_KN = _stacked([theta.weights_N for theta in thetas])
        self.shared_KR = _stacked([theta.shared_R for theta in thetas])
        self.private_KP = _stacked([_own(e) for e in contexts])
        self.buffers = {name: torch.stack([t.buffers[name] for t in thetas]) for name in thetas[0].buffers}
        self.masks_KN = torch.stack([e.mask_N for e in contexts])

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that the optimiser steps."""
        return [self.weights_KN, self.shared_KR, self.private_KP]

    def masks(self, problem: Problem) -> list[Tensor | None]:
        """The trainable part of the leaves."""
        trainable = [problem.trainable[e.k] for e in self.contexts]
        every = torch.ones_like(self.shared_KR[0], dtype=torch.bool)
        parts = [every if mask is None else mask for mask in trainable]
        shared = all(mask is None for mask in trainable)
        return [self.masks_KN, None if shared else torch.stack(parts), None]

    def outputs(self, x_KB: Batch, read: Callable[[Any], Tensor] = part_of) -> Tensor:
        """``f(x; m_k ⊙ θ_k)`` for the batch of every ticket, what is read of it, ``[K, B, ...]``."""

        def one(weights_N: Tensor, shared_R: Tensor, private_P: Tensor, buffers: Buffers, x: Batch) -> Tensor:
            return read(self.f(Params(weights_N, shared_R, [private_P], buffers), None, x))

        try:
            outputs: Tensor = vmap(one)(
                self.weights_KN * self.masks_KN, self.shared_KR, self.private_KP, self.buffers, x_KB
            )
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            reason = str(error).split(". ")[0]
            raise UsageError(
                f"this network cannot be trained as a batch of tickets ({reason}): use parallel=workers or no"
            ) from None
        return outputs

    @torch.no_grad()
    def unstack(self) -> None:
        """Write what was trained into the weights of each ticket."""
        for row, e in enumerate(self.contexts):
            e.theta.weights_N.copy_(self.weights_KN[row])
            e.theta.shared_R.copy_(self.shared_KR[row])
            _own(e).copy_(self.private_KP[row])
            for name, buffer in e.theta.buffers.items():
                buffer.copy_(self.buffers[name][row])


def train(contexts: Sequence[TicketContext], T: int, config: TrainConfig) -> list[float]:
    """T steps of several tickets of one problem, in place; the mean loss of each.

    As `Problem.train` of one after the other, up to rounding.

    Raises:
        UsageError: the network cannot be batched.
        DataError: a loss is not finite; the message names the ticket.
    """
    problem = contexts[0].problem
    stack = Stack(problem.f, contexts)
    optimizer, masks = config.build(stack.leaves), stack.masks(problem)
    streams = [problem.stream(e.k, "extract", e.round) for e in contexts]
    total_K = torch.zeros(len(contexts), device=problem.f.device)
    problem.f.train()
    turns = ((e.k, s, step) for step in range(T) for e, s in zip(contexts, streams, strict=True))
    reader = problem.draw(turns)
    for step in range(T):
        set_rate(optimizer, config.rate(step, T))
        optimizer.zero_grad()
        batches = [next(reader) for _ in contexts]
        with config.passes(problem.f.device):
            outputs_KB = stack.outputs(stacked([batch.x for batch in batches]), problem.objective.read)
            losses = [
                problem.objective.loss(outputs_B, batch.targets, batch.k, batch.x)
                for outputs_B, batch in zip(outputs_KB, batches, strict=True)
            ]
        loss_K = torch.stack(losses)
        loss_K.sum().backward()
        total_K += loss_K.detach()
        _add_movement(stack)
        optimizer.step(masks)
    stack.unstack()
    means = (total_K / max(T, 1)).tolist()
    return [finite(mean, problem.partition.names[e.k]) for e, mean in zip(contexts, means, strict=True)]


def _add_movement(stack: Stack) -> None:
    """Add this step's share to the trajectory of the tickets that keep one (the score ``movement``)."""
    gradient_KN = stack.weights_KN.grad
    for row, e in enumerate(stack.contexts):
        if e.moved_N is not None and gradient_KN is not None:
            e.moved_N += away_from_zero(stack.weights_KN[row], gradient_KN[row])


def _own(context: TicketContext) -> Tensor:
    """The private part of the ticket; there is one for all where none was ever told apart."""
    private = context.theta.private
    return private[context.k if len(private) > 1 else 0]


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([row.detach() for row in rows]).requires_grad_()
