"""Algorithm 1 of RTL (arXiv 2601.22141): ticket extraction by iterative pruning and rewinding.

With one subset it is iterative magnitude pruning (Frankle & Carbin, arXiv 1803.03635).
Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

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

    def turn(problem: Problem, m_k: Tensor, k: int, r: int) -> Turned:
        number = first_round + r
        theta = starts[k].masked(m_k)  # θ ← θ0, under m_k (the rewind)
        evidence = TicketEvidence(problem, starts[k], theta, m_k, k, number, needs_trajectory(score))
        draw = partial(_drawn, cut, score, evidence, schedule[r])
        watch = watcher(evidence, draw) if watcher else None
        recipe = later if r or trained[k] else None
        # T steps on d_k: θ_T^(k)
        loss = problem.train(
            theta,
            m_k,
            k,
            T,
            "extract",
            number,
            moved_N=evidence.moved_N,
            recipe=recipe,
            watch=watch,
        )
        if guard is not None:
            guard.saw(problem, theta, m_k, k)
        try:
            pruned = cut(m_k, score(evidence), schedule[r], scope)
        except PruningError as error:
            raise type(error)(f"round {number}, ticket {names[k]!r}: {error}") from None
        return Turned(pruned, theta, loss, watch)

    turns = [(r, k) for r in range(len(schedule)) for k in range(len(masks))]
    for r, k in turns[done:]:  # in every round, ticket after ticket
        if guard is not None and guard.stopped:
            break
        m[k], theta, loss, watch = turn(problem, m[k], k, r)
        starts[k] = theta if kept else starts[k]
        done += 1
        told = {"round": first_round + r, "ticket": names[k]}
        if watch is not None:
            stage.record(**told, **watch.facts())
        stage.record(event="prune", **told, kept=int(m[k].sum()), loss=loss)
        if k + 1 == len(masks):
            found = MaskSet.stacked(scope, names, m)
            for row in similarity_rows(found) if k else ():
                stage.record(event="similarity", round=first_round + r, **row)
            if guard is not None:
                guard.after(first_round + r, found, partial(turn, r=r), stage)
        stage.save(
            lambda: {
                "masks": MaskSet.stacked(scope, names, m).pack(),
                **(to_tensors(starts) if kept else {}),
                **(guard.state()[0] if guard else {}),
            },
            {"done": done, "seen": problem.seen, **({"guard": guard.state()[1]} if guard else {})},
        )
        stage.advance(done, len(turns))
    return guard.last_good(masks) if guard is not None and guard.stopped else MaskSet.stacked(scope, names, m)


def _drawn(cut: Callable[..., Tensor], score: Score, evidence: TicketEvidence, keep: int) -> Tensor:
    """The mask that pruning would give now; a layer may be empty in it."""
    return cut(evidence.mask_N, score(evidence), keep, evidence.scope, allow_collapse=True)
