"""Algorithm 1 of RTL (arXiv 2601.22141): ticket extraction by iterative pruning and rewinding.

With one subset it is iterative magnitude pruning (Frankle & Carbin, arXiv 1803.03635). What a ticket goes
through in a round is in `tombola.training.ticket`, the steps themselves in `tombola.training.trainer`.
Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tombola._utils.checkpoint import Checkpoint
from tombola._utils.errors import RunError
from tombola.masks.maskset import MaskSet
from tombola.training.callbacks.base import Callback
from tombola.training.callbacks.similarity import SimilarityRecord
from tombola.training.loop import TrainLoop
from tombola.training.model import Params
from tombola.training.parallel import MapTickets, mapper
from tombola.training.pruning_context import Pruner
from tombola.training.rewind import StartWeights
from tombola.training.ticket import TicketJob, TicketResult, TicketTrainer
from tombola.training.trainer import Problem

if TYPE_CHECKING:
    from tombola.settings import TrainConfig


def find_tickets(
    problem: Problem,
    theta0: Params,
    masks: MaskSet,
    counts: Sequence[int],
    T: int,
    *,
    pruner: Pruner | None = None,
    rewind: StartWeights | None = None,
    first_round: int = 0,
    later: TrainConfig | None = None,
    callbacks: Sequence[Callback] = (SimilarityRecord(),),
    train_loop: TrainLoop | None = None,
    map_tickets: MapTickets = "no",
    checkpoint: Checkpoint | None = None,
) -> MaskSet:
    """The masks after training, pruning and rewinding once per entry of ``counts``.

    The paper prints the loop's test as ``density < s``; here every round has its exact count.

    Args:
        problem: f, data, partition ``d_1 .. d_K``, objective, config.
        theta0: the rewind point: the initial weights, or those of an early step.
        masks: where pruning starts: all ones, or the result of earlier rounds.
        counts: weights that each ticket keeps after each round (`tombola.schedules`).
        T: training steps per ticket and round.
        pruner: the score, and how masks are cut by it; by default the smallest magnitudes go.
        rewind: where rounds start if not at theta0; where weights are kept (`tombola.training.rewind`) it
            holds them afterwards.
        first_round: number of the first round; data order depends on it.
        later: config of rounds that start from trained weights; the problem's by default.
        callbacks: what looks on (`tombola.training.callbacks`).
        train_loop: the user's own training of a ticket (`tombola.training.loop`).
        map_tickets: how the tickets of a round are run (`tombola.training.parallel`).
        checkpoint: where progress, records and states go.

    Raises:
        WorkerDied: a worker process was killed.
        LayerCollapse: a round would empty a layer; the message names round and ticket.
        PruningError: scores that cannot be pruned by; so does its message.
        UsageError: masks of other tickets or weights than the problem's.
    """
    problem.check(masks)
    checkpoint, K, R = checkpoint or Checkpoint(), len(masks), len(counts)
    theta = rewind or StartWeights([theta0] * K)
    # m_k ← 1, or as an earlier process left it
    m, done = _resume(problem, masks, theta, callbacks, checkpoint)
    train_ticket = TicketTrainer(problem, T, pruner or Pruner(), theta.keeps, callbacks, train_loop)
    with closing(mapper(map_tickets, train_ticket, K, max(T, 1) * K * (R - done))) as run:
        for r in range(done, R):  # until the target: one round per count
            config = later if r or theta.trained else None
            jobs = [TicketJob(k, first_round + r, m[k], theta[k], counts[r], config) for k in range(K)]
            for k, ticket in enumerate(run(jobs)):  # k = 1 .. K, in turn or at once
                m[k] = ticket.mask_N  # m_k ← m_k without the lowest scores of θ_T^(k)
                theta.after(k, ticket.theta)  # θ ← θ0, unless weights are kept
                checkpoint.advance(r * K + k + 1, K * R)
                _record(checkpoint, first_round + r, masks.names[k], ticket)
            now = MaskSet.stacked(masks.scope, masks.names, m)
            for callback in callbacks:
                callback.on_round_end(first_round + r, now, checkpoint.record)
            state = partial(_tensors, now, theta)
            checkpoint.save(state, {"rounds": r + 1, **_facts(problem, callbacks)})
    if done == R:
        checkpoint.advance(K * R, K * R)
    return MaskSet.stacked(masks.scope, masks.names, m)


def _record(checkpoint: Checkpoint, round: int, name: str, ticket: TicketResult) -> None:
    head = {"round": round, "ticket": name}
    for row in ticket.rows:
        checkpoint.record(**head, **row)
    checkpoint.record(event="prune", **head, kept=int(ticket.mask_N.count_nonzero()), loss=ticket.loss)


def _tensors(masks: MaskSet, theta: StartWeights) -> dict[str, Tensor]:
    """The state that `_resume` goes on from, with `_facts`."""
    return {"masks": masks.pack(), **theta.tensors()}


def _facts(problem: Problem, callbacks: Sequence[Callback]) -> dict[str, Any]:
    return {"seen": problem.samples_seen, "callbacks": [callback.state() for callback in callbacks]}


def _resume(
    problem: Problem,
    masks: MaskSet,
    theta: StartWeights,
    callbacks: Sequence[Callback],
    checkpoint: Checkpoint,
) -> tuple[Tensor, int]:
    """``m_1 .. m_K`` and the rounds that are done: as given and none, or as the checkpoint has it."""
    if (saved := checkpoint.load()) is None:
        return masks.masks_KN.clone(), 0
    tensors, facts = saved
    if "rounds" not in facts:
        raise RunError(
            "this search was interrupted under an older version, which saved its state otherwise: finish it "
            "with that version, or delete the run and start again"
        )
    problem.samples_seen = facts["seen"]
    theta.restore(tensors, problem.f.device)
    for callback, state in zip(callbacks, facts["callbacks"], strict=True):
        callback.restore(state)
    return MaskSet.unpack(masks.scope, masks.names, tensors["masks"]).masks_KN, facts["rounds"]
