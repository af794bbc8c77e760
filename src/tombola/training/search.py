"""Algorithm 1 of RTL (arXiv 2601.22141): ticket extraction by iterative pruning and rewinding.

With one subset it is iterative magnitude pruning (Frankle & Carbin, arXiv 1803.03635).
Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from tombola._utils.checkpoint import Checkpoint
from tombola._utils.errors import PruningError
from tombola.masks.maskset import MaskSet
from tombola.pruning import Selection, prune, transposed
from tombola.pruning.scores import CRITERIA, Score, needs_trajectory
from tombola.settings import TrainConfig
from tombola.training.callbacks.guard import Guard
from tombola.training.callbacks.recorded import similarity_rows
from tombola.training.model import Params
from tombola.training.parallel import Executor, Parallel, Training, Turn, TurnResult, Work, executor
from tombola.training.pruning_context import TicketContext
from tombola.training.rewind import Starts
from tombola.training.trainer import Callback, Problem

MakeCallback = Callable[
    [TicketContext, Callable[[], Tensor]], Callback
]  # of a ticket and the mask it would get now


def extract(
    problem: Problem,
    theta0: Params,
    masks: MaskSet,
    schedule: Sequence[int],
    T: int,
    *,
    score: Score = CRITERIA["magnitude"],
    selection: Selection = "global",
    granularity: str = "weight",
    floor: int = 0,
    first_round: int = 0,
    starts: Starts | None = None,
    later: TrainConfig | None = None,
    make_callback: MakeCallback | None = None,
    guard: Guard | None = None,
    checkpoint: Checkpoint | None = None,
    parallel: Parallel = "no",
) -> MaskSet:
    """The masks after training, pruning and rewinding once per entry of the schedule.

    The paper prints the loop's test as ``density < s``; here every round has its exact count.

    Args:
        problem: f, data, partition ``d_1 .. d_K``, objective, recipe.
        theta0: the rewind point: the initial weights, or those of an early step.
        masks: where pruning starts: all ones, or the result of earlier rounds.
        schedule: weights that each ticket keeps after each round (`tombola.schedules`).
        T: training steps per ticket and round.
        score: from what is known of a ticket to scores ``[N]``, low = prune first (`tombola.scoring`).
        selection: ``global``, ``layer``, ``uniform``, ``erk`` or ``row``.
        granularity: what is pruned together (`tombola.pruning`).
        floor: what every layer keeps at least.
        first_round: number of the first round; data order depends on it.
        starts: where the rounds of every ticket start, at theta0 by default; where weights are kept instead
            of rewound (`tombola.training.rewind`) it holds them afterwards.
        later: recipe of rounds that start from trained weights; the problem's by default.
        watcher: what looks on while a ticket is trained (`tombola.training.callbacks`).
        guard: the alarm for collapse, which looks at every round; one that stops the search gives back the
            masks of the last good round.
        stage: where progress, records and states go.
        parallel: how the trainings of a round go (`tombola.training.parallel.choose`).

    Raises:
        WorkerDied: a worker process was killed.
        LayerCollapse: a round would empty a layer; the message names round and ticket.
        PruningError: scores that cannot be pruned by; so does its message.
        UsageError: masks of other tickets or weights than the problem's.
    """
    problem.check(masks)
    checkpoint, K, R = checkpoint or Checkpoint(), len(masks), len(schedule)
    starts = starts or Starts([theta0] * K)
    flipped = transposed(problem.f.module)
    cut = partial(prune, selection=selection, granularity=granularity, transposed=flipped, floor=floor)
    replicate = [guard.replicate] if guard is not None and guard.replicate is not None else []
    recipes = [later if r or starts.trained else None for r in range(R)]
    work = _Algorithm1(
        [problem, *replicate],
        starts.keeps,
        schedule,
        T,
        recipes,
        score,
        cut,
        first_round,
        make_callback,
        guard,
    )
    m, done = _begin(problem, masks, starts, guard, checkpoint)  # m_k ← 1, or what an earlier process left
    with closing(executor(parallel, work, K, max(T, 1) * (K * R - done))) as execute:
        for r in range(done // K, R):  # round after round
            if guard is not None and guard.stopped:
                break
            turns = [Turn(problem, k, r, m[k], starts[k]) for k in range(done % K, K)]
            for turn, result in zip(turns, execute(turns), strict=True):  # k = 1 .. K, in turn or at once
                m[turn.k], done = result.mask_N, done + 1
                starts.after(turn.k, result.theta)  # θ ← θ0, unless weights are kept
                if guard is not None:
                    guard.keep(turn.k, result.outputs)
                now = MaskSet.stacked(masks.scope, masks.names, m)
                _record(checkpoint, {"round": first_round + r, "ticket": masks.names[turn.k]}, result)
                if turn.k + 1 == K:
                    _after_round(checkpoint, first_round + r, now, guard, partial(_alone, execute, r, starts))
                if turn.k + 1 == K or not execute.whole:
                    checkpoint.save(partial(_state, now, starts, guard), _facts(problem, done, guard))
                checkpoint.advance(done, K * R)
    if guard is not None and guard.stopped:
        return guard.last_good(masks)
    return MaskSet.stacked(masks.scope, masks.names, m)


@dataclass(frozen=True)
class _Algorithm1(Work):
    """What a ticket goes through in a round; its training lies between. Arguments as in `extract`."""

    problems: Sequence[Problem]
    keeps: bool
    schedule: Sequence[int]
    T: int
    recipes: Sequence[TrainConfig | None]  # of each round; the problem's where there is none
    score: Score
    cut: Callable[..., Tensor]
    first_round: int
    make_callback: MakeCallback | None
    guard: Guard | None

    def begin(self, turn: Turn) -> Training:
        """The rewind, and the T steps to be made on ``d_k``."""
        k, number = turn.k, self.first_round + turn.r
        m_k = turn.mask_N.to(turn.problem.f.device)
        theta = turn.start.masked(m_k)  # θ ← θ0, under m_k
        trajectory = needs_trajectory(self.score)
        context = TicketContext(turn.problem, turn.start, theta, m_k, k, number, trajectory)
        draw = partial(self._drawn, context, self.schedule[turn.r])
        callback = self.make_callback(context, draw) if self.make_callback else None
        return Training(context, self.T, self.recipes[turn.r], callback)

    def finish(self, training: Training, loss: float) -> TurnResult:
        """``m_k`` without the lowest scores: those of ``|θ_T^(k)|`` in the paper."""
        e, callback, guard = training.context, training.callback, self.guard
        outputs = guard.saw(e.problem, e.theta, e.mask_N, e.k) if guard is not None else None
        try:
            m_k = self._pruned(e, self.schedule[e.round - self.first_round])
        except PruningError as error:
            raise type(error)(
                f"round {e.round}, ticket {e.problem.partition.names[e.k]!r}: {error}"
            ) from None
        return TurnResult(m_k, e.theta, loss, callback.metadata() if callback else None, outputs)

    def _drawn(self, context: TicketContext, keep: int) -> Tensor:
        """The mask that pruning would give now; a layer may be empty in it."""
        return self._pruned(context, keep, allow_collapse=True)

    def _pruned(self, context: TicketContext, keep: int, **options: bool) -> Tensor:
        m_k, scores_N = context.mask_N.cpu(), self.score(context).cpu()
        return self.cut(m_k, scores_N, keep, context.scope, **options)


def _alone(execute: Executor, r: int, starts: Starts, problem: Problem, m_k: Tensor, k: int) -> TurnResult:
    """A turn by itself: that of a twin."""
    (result,) = execute([Turn(problem, k, r, m_k, starts[k])])
    return result


def _after_round(
    checkpoint: Checkpoint,
    number: int,
    masks: MaskSet,
    guard: Guard | None,
    take_turn: Callable[..., TurnResult],
) -> None:
    """How alike the masks are now, and whether that is an alarm."""
    for row in similarity_rows(masks) if len(masks) > 1 else ():
        checkpoint.record(event="similarity", round=number, **row)
    if guard is not None:
        guard.after(number, masks, take_turn, checkpoint)


def _record(checkpoint: Checkpoint, head: dict[str, Any], result: TurnResult) -> None:
    """What a turn came to."""
    if result.metadata is not None:
        checkpoint.record(**head, **result.metadata)
    checkpoint.record(event="prune", **head, kept=int(result.mask_N.sum()), loss=result.loss)


def _begin(
    problem: Problem, masks: MaskSet, starts: Starts, guard: Guard | None, checkpoint: Checkpoint
) -> tuple[Tensor, int]:
    """``m_1 .. m_K`` and how many turns are done: as given and none, or as the stage was left."""
    if (saved := checkpoint.load()) is None:
        return masks.masks_KN.clone(), 0
    tensors, metadata = saved
    problem.samples_seen = metadata["seen"]
    starts.restore(tensors, problem.f.device)
    if guard is not None:
        guard.restore(tensors, metadata["guard"])
    return MaskSet.unpack(masks.scope, masks.names, tensors["masks"]).masks_KN, metadata["done"]


def _state(masks: MaskSet, starts: Starts, guard: Guard | None) -> dict[str, Tensor]:
    """What `_begin` goes on from, with `_facts`."""
    return {"masks": masks.pack(), **starts.tensors(), **(guard.state()[0] if guard else {})}


def _facts(problem: Problem, done: int, guard: Guard | None) -> dict[str, Any]:
    return {"done": done, "seen": problem.samples_seen, **({"guard": guard.state()[1]} if guard else {})}
