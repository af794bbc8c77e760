"""Algorithm 1 of RTL (arXiv 2601.22141): ticket extraction by iterative pruning and rewinding.

With one subset it is iterative magnitude pruning (Frankle & Carbin, arXiv 1803.03635).
Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from tombola.analysis.recorded import similarity_rows
from tombola.errors import PruningError
from tombola.evidence import TicketEvidence
from tombola.function import Theta
from tombola.guard import Guard, Turned
from tombola.masks import MaskSet
from tombola.problem import Problem, Watch
from tombola.pruning import Selection, prune, transposed
from tombola.recipe import Recipe
from tombola.rewinding import from_tensors, to_tensors
from tombola.scoring import CRITERIA, Score, needs_trajectory
from tombola.stage import Stage

Watcher = Callable[[TicketEvidence, Callable[[], Tensor]], Watch]  # of a ticket and the mask it would get now


def extract(
    problem: Problem,
    theta0: Theta,
    masks: MaskSet,
    schedule: Sequence[int],
    T: int,
    *,
    score: Score = CRITERIA["magnitude"],
    selection: Selection = "global",
    granularity: str = "weight",
    floor: int = 0,
    first_round: int = 0,
    starts: list[Theta] | None = None,
    later: Recipe | None = None,
    watcher: Watcher | None = None,
    guard: Guard | None = None,
    stage: Stage | None = None,
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
        selection: ``global``, ``layer``, ``uniform`` or ``erk``.
        granularity: what is pruned together (`tombola.pruning`).
        floor: what every layer keeps at least.
        first_round: number of the first round; data order depends on it.
        starts: where every ticket's next round starts, if weights are kept instead of rewound
            (`tombola.rewinding`): theta0 at first, afterwards what the rounds have left here.
        later: recipe of rounds that start from trained weights; the problem's by default.
        watcher: what looks on while a ticket is trained (`tombola.early_bird`, `tombola.dynamic`).
        guard: the alarm for collapse, which looks at every round; one that stops the search gives back the
            masks of the last good round.
        stage: where progress, records and states go.

    Raises:
        LayerCollapse: a round would empty a layer; the message names round and ticket.
        PruningError: scores that cannot be pruned by; so does its message.
    """
    stage, K, kept = stage or Stage(), len(masks), [] if starts is None else starts
    starts = kept or [theta0] * K
    trained = [start is not theta0 for start in starts]
    flipped = transposed(problem.f.module)
    cut = partial(prune, selection=selection, granularity=granularity, transposed=flipped, floor=floor)
    turn = _Turn(masks.names, starts, trained, schedule, T, score, cut, first_round, later, watcher, guard)
    m, done = _begin(problem, masks, kept, guard, stage)  # m_k ← 1, or what an earlier process left
    turns = [(r, k) for r in range(len(schedule)) for k in range(K)]
    for r, k in turns[done:]:  # round after round, for k = 1 .. K
        if guard is not None and guard.stopped:
            break
        turned = turn(problem, m[k], k, r)  # θ ← θ0 under m_k; train T steps on d_k; prune
        m[k], done, number = turned.mask_N, done + 1, first_round + r
        if kept:  # otherwise the next turn begins at θ0 again: the rewind
            kept[k] = turned.theta
        _record(stage, {"round": number, "ticket": masks.names[k]}, turned)
        now = MaskSet.stacked(masks.scope, masks.names, m)
        if k + 1 == K:
            for row in similarity_rows(now) if K > 1 else ():
                stage.record(event="similarity", round=number, **row)
            if guard is not None:
                guard.after(number, now, partial(turn, r=r), stage)
        stage.save(partial(_state, now, kept, guard), _facts(problem, done, guard))
        stage.advance(done, len(turns))
    if guard is not None and guard.stopped:
        return guard.last_good(masks)
    return MaskSet.stacked(masks.scope, masks.names, m)


@dataclass(frozen=True)
class _Turn:
    """What a ticket goes through in a round. Arguments as in `extract`."""

    names: Sequence[str]
    starts: Sequence[Theta]
    trained: Sequence[bool]  # which of them are more than the rewind point
    schedule: Sequence[int]
    T: int
    score: Score
    cut: Callable[..., Tensor]
    first_round: int
    later: Recipe | None
    watcher: Watcher | None
    guard: Guard | None

    def __call__(self, problem: Problem, m_k: Tensor, k: int, r: int) -> Turned:
        """The mask of ticket k after round r, and what it has trained."""
        number, keep = self.first_round + r, self.schedule[r]
        theta = self.starts[k].masked(m_k)  # θ ← θ0, under m_k
        evidence = TicketEvidence(
            problem, self.starts[k], theta, m_k, k, number, needs_trajectory(self.score)
        )
        watch = self.watcher(evidence, partial(self._drawn, evidence, keep)) if self.watcher else None
        recipe = self.later if r or self.trained[k] else None
        loss = problem.train(  # θ_T^(k): T steps on d_k
            theta, m_k, k, self.T, "extract", number, moved_N=evidence.moved_N, recipe=recipe, watch=watch
        )
        if self.guard is not None:
            self.guard.saw(problem, theta, m_k, k)
        try:  # m_k ← m_k without the lowest scores, |θ_T^(k)| in the paper
            m_k = self.cut(m_k, self.score(evidence), keep, evidence.scope)
        except PruningError as error:
            raise type(error)(f"round {number}, ticket {self.names[k]!r}: {error}") from None
        return Turned(m_k, theta, loss, watch)

    def _drawn(self, evidence: TicketEvidence, keep: int) -> Tensor:
        """The mask that pruning would give now; a layer may be empty in it."""
        return self.cut(evidence.mask_N, self.score(evidence), keep, evidence.scope, allow_collapse=True)


def _record(stage: Stage, head: dict[str, Any], turned: Turned) -> None:
    """What a turn came to."""
    if turned.watch is not None:
        stage.record(**head, **turned.watch.facts())
    stage.record(event="prune", **head, kept=int(turned.mask_N.sum()), loss=turned.loss)


def _begin(
    problem: Problem, masks: MaskSet, kept: list[Theta], guard: Guard | None, stage: Stage
) -> tuple[Tensor, int]:
    """``m_1 .. m_K`` and how many turns are done: as given and none, or as the stage was left."""
    if (saved := stage.load()) is None:
        return masks.masks_KN.clone(), 0
    tensors, facts = saved
    problem.seen, kept[:] = facts["seen"], from_tensors(tensors, len(kept))
    if guard is not None:
        guard.restore(tensors, facts["guard"])
    return MaskSet.unpack(masks.scope, masks.names, tensors["masks"]).masks_KN, facts["done"]


def _state(masks: MaskSet, kept: Sequence[Theta], guard: Guard | None) -> dict[str, Tensor]:
    """What `_begin` goes on from, with `_facts`."""
    return {"masks": masks.pack(), **to_tensors(kept), **(guard.state()[0] if guard else {})}


def _facts(problem: Problem, done: int, guard: Guard | None) -> dict[str, Any]:
    return {"done": done, "seen": problem.seen, **({"guard": guard.state()[1]} if guard else {})}
