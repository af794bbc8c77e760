"""Algorithm 1 of RTL (arXiv 2601.22141): ticket extraction by iterative pruning and rewinding.

With one subset it is iterative magnitude pruning (Frankle & Carbin, arXiv 1803.03635).
Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from torch import Tensor

from tombola.analysis.recorded import similarity_rows
from tombola.errors import PruningError
from tombola.evidence import TicketEvidence
from tombola.function import Theta
from tombola.guard import Guard
from tombola.masks import MaskSet
from tombola.problem import Problem, Watch
from tombola.pruning import Selection, prune, transposed
from tombola.recipe import Recipe
from tombola.rewinding import from_tensors, to_tensors
from tombola.scoring import CRITERIA, Score, needs_trajectory
from tombola.stage import Stage
from tombola.together import Asked, AtOnce, Training, Turned, Turns, Way, opened

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
    at_once: AtOnce = "no",
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
        at_once: how the trainings of a round go (`tombola.together.choose`).

    Raises:
        WorkerDied: a worker process was killed.
        LayerCollapse: a round would empty a layer; the message names round and ticket.
        PruningError: scores that cannot be pruned by; so does its message.
    """
    stage, names, scope = stage or Stage(), masks.names, masks.scope
    cut = partial(
        prune,
        selection=selection,
        granularity=granularity,
        transposed=transposed(problem.f.module),
        floor=floor,
    )
    m, done, kept = masks.masks_KN.clone(), 0, starts is not None
    starts = [theta0] * len(masks) if starts is None else starts
    trained = [start is not theta0 for start in starts]
    if (saved := stage.load()) is not None:
        m, done = MaskSet.unpack(scope, names, saved[0]["masks"]).masks_KN, saved[1]["done"]
        problem.seen = saved[1]["seen"]
        starts[:] = from_tensors(saved[0], len(masks)) if kept else starts
        if guard is not None:
            guard.restore(saved[0], saved[1]["guard"])

    def begin(asked: Asked) -> Training:
        problem, k, number = asked.problem, asked.k, first_round + asked.r
        theta = asked.start.masked(asked.mask_N)  # θ ← θ0, under m_k (the rewind)
        trajectory = needs_trajectory(score)
        evidence = TicketEvidence(problem, asked.start, theta, asked.mask_N, k, number, trajectory)
        draw = partial(_drawn, cut, score, evidence, schedule[asked.r])
        watch = watcher(evidence, draw) if watcher else None
        return Training(evidence, T, later if asked.r or trained[k] else None, watch)  # T steps on d_k

    def finish(training: Training, loss: float) -> Turned:
        evidence, watch = training.evidence, training.watch  # of θ_T^(k)
        known = evidence.problem, evidence.theta, evidence.mask_N, evidence.k
        outputs = guard.saw(*known) if guard is not None else None
        try:
            pruned = cut(evidence.mask_N, score(evidence), schedule[evidence.round - first_round], scope)
        except PruningError as error:
            where = f"round {evidence.round}, ticket {names[evidence.k]!r}"
            raise type(error)(f"{where}: {error}") from None
        return Turned(pruned, evidence.theta, loss, watch.facts() if watch else None, outputs)

    def tensors() -> dict[str, Tensor]:
        more = {**(to_tensors(starts) if kept else {}), **(guard.state()[0] if guard else {})}
        return {"masks": MaskSet.stacked(scope, names, m).pack(), **more}

    K, R = len(masks), len(schedule)
    twin = [guard.twin] if guard is not None and guard.twin is not None else []
    turns = Turns(begin, finish, [problem, *twin], kept)
    with closing(opened(at_once, turns, K, max(T, 1) * (K * R - done))) as way:
        for r in range(done // K, R):
            if guard is not None and guard.stopped:
                break
            left = range(done % K, K)
            asked = [Asked(problem, k, r, m[k], starts[k]) for k in left]
            for k, turned in zip(left, way(asked), strict=True):  # ticket after ticket, or all at once
                m[k], done = turned.mask_N, done + 1
                if kept and turned.theta is not None:
                    starts[k] = turned.theta
                told = {"round": first_round + r, "ticket": names[k]}
                if turned.facts is not None:
                    stage.record(**told, **turned.facts)
                stage.record(event="prune", **told, kept=int(m[k].sum()), loss=turned.loss)
                if guard is not None:
                    guard.keep(k, turned.outputs)
                if k + 1 == K:
                    found = MaskSet.stacked(scope, names, m)
                    for row in similarity_rows(found) if k else ():
                        stage.record(event="similarity", round=first_round + r, **row)
                    if guard is not None:
                        guard.after(first_round + r, found, partial(_one, way, r, starts), stage)
                if k + 1 == K or not way.whole:
                    facts = {"guard": guard.state()[1]} if guard else {}
                    stage.save(tensors, {"done": done, "seen": problem.seen, **facts})
                stage.advance(done, K * R)
    return guard.last_good(masks) if guard is not None and guard.stopped else MaskSet.stacked(scope, names, m)


def _one(way: Way, r: int, starts: Sequence[Theta], problem: Problem, m_k: Tensor, k: int) -> Turned:
    """A turn by itself: that of a twin."""
    (turned,) = way([Asked(problem, k, r, m_k, starts[k])])
    return turned


def _drawn(cut: Callable[..., Tensor], score: Score, evidence: TicketEvidence, keep: int) -> Tensor:
    """The mask that pruning would give now; a layer may be empty in it."""
    return cut(evidence.mask_N, score(evidence), keep, evidence.scope, allow_collapse=True)
