"""Algorithm 1 as the settings want it: what the stages of a search compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tombola._utils.checkpoint import Stage, State
from tombola.masks.maskset import MaskSet
from tombola.methods.segments import Segment
from tombola.pruning import scores
from tombola.recipe import Recipe
from tombola.settings import Settings
from tombola.training.callbacks.guard import Guard
from tombola.training.callbacks.watching import watcher
from tombola.training.model import Theta
from tombola.training.parallel import AtOnce
from tombola.training.rewind import Starts
from tombola.training.search import extract
from tombola.training.trainer import Problem

Compute = Callable[[Stage], State]


def searched(
    problem: Problem,
    settings: Settings,
    rewound: Theta,
    before: MaskSet,
    starts: Starts,
    rounds: Segment,
    times: int,
    guard: Guard | None = None,
    at_once: AtOnce = "no",
) -> Compute:
    """The rounds of a segment: masks, and the weights that they have trained if those are kept.

    Args:
        problem: what is trained on, by the recipe of the search.
        settings: score, selection, what happens in a round, what is put back.
        rewound: the rewind point.
        before: the masks that the segment begins with.
        starts: where the rounds of each ticket start, and what weights they leave.
        rounds: their counts.
        times: the settings' T this often: K for one network that is trained on all K subsets.
        guard: the alarm for collapse.
        at_once: how the trainings of a round go (`tombola.training.parallel.choose`).
    """
    T = settings.T * times

    def compute(stage: Stage) -> State:
        masks = extract(
            problem,
            rewound,
            before,
            rounds.counts,
            T,
            score=scores.parse(settings.score),
            first_round=rounds.done,
            starts=starts,
            later=later(settings, T) if settings.rewinding == "fine_tune" else None,
            watcher=watcher(settings, T),
            guard=guard,
            stage=stage,
            at_once=at_once,
            **_cut(settings),
        )
        tensors, facts = guard.state() if guard is not None else ({}, {})
        found = {"masks": masks.pack(), **starts.tensors(), **tensors}
        if guard is None:
            return found, {"seen": problem.seen}
        result: dict[str, Any] = {"seen": problem.seen + facts["seen"], "guard": facts}
        if guard.stopped:
            result["stopped"] = {"sparsity": guard.last_good_sparsity, "at": rounds.sparsity}
            missed = [s for s in sorted(settings.sparsity) if s >= rounds.sparsity]
            stage.record(event="stopped", not_reached=missed, **result["stopped"])
        return found, result

    return compute


def first_mask(problem: Problem, settings: Settings, rewound: Theta, count: int) -> Compute:
    """The mask that ``settings.first`` draws before any training, of ``count`` weights."""

    def compute(stage: Stage) -> State:
        dense, score = MaskSet.dense(problem.f.scope, problem.partition.names), scores.parse(settings.first)
        fresh = replace(problem, seen=0)  # the search that follows counts its own samples
        masks = extract(fresh, rewound, dense, [count], 0, score=score, stage=stage, **_cut(settings))
        return {"masks": masks.pack()}, {"seen": fresh.seen}

    return compute


def later(settings: Settings, T: int) -> Recipe:
    """The recipe of the search at the learning rate with which its first round, of T steps, ended."""
    recipe = settings.search
    return recipe.tail(recipe.rate(T - 1, T)) if T else recipe


def _cut(settings: Settings) -> dict[str, Any]:
    """How masks are cut from scores."""
    return {
        "selection": settings.selection,
        "granularity": settings.granularity,
        "floor": settings.floor,
    }
