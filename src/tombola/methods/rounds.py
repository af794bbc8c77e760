"""Algorithm 1 as the settings want it: what the stages of a search compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tombola._utils.checkpoint import Checkpoint, State
from tombola.masks.maskset import MaskSet
from tombola.methods.segments import Segment
from tombola.pruning import scores
from tombola.settings import Settings, TrainConfig
from tombola.training.callbacks.guard import Guard
from tombola.training.callbacks.rules import make_callback
from tombola.training.model import Params
from tombola.training.parallel import Parallel
from tombola.training.rewind import Starts
from tombola.training.search import extract
from tombola.training.trainer import Problem

Compute = Callable[[Checkpoint], State]


def searched(
    problem: Problem,
    settings: Settings,
    rewound: Params,
    before: MaskSet,
    starts: Starts,
    rounds: Segment,
    times: int,
    guard: Guard | None = None,
    parallel: Parallel = "no",
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
        parallel: how the trainings of a round go (`tombola.training.parallel.choose`).
    """
    T = settings.T * times

    def compute(checkpoint: Checkpoint) -> State:
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
            make_callback=make_callback(settings, T),
            guard=guard,
            checkpoint=checkpoint,
            parallel=parallel,
            **_cut(settings),
        )
        tensors, metadata = guard.state() if guard is not None else ({}, {})
        found = {"masks": masks.pack(), **starts.tensors(), **tensors}
        if guard is None:
            return found, {"seen": problem.samples_seen}
        result: dict[str, Any] = {"seen": problem.samples_seen + metadata["seen"], "guard": metadata}
        if guard.stopped:
            result["stopped"] = {"sparsity": guard.last_good_sparsity, "at": rounds.sparsity}
            missed = [s for s in sorted(settings.sparsity) if s >= rounds.sparsity]
            checkpoint.record(event="stopped", not_reached=missed, **result["stopped"])
        return found, result

    return compute


def first_mask(problem: Problem, settings: Settings, rewound: Params, count: int) -> Compute:
    """The mask that ``settings.first`` draws before any training, of ``count`` weights."""

    def compute(checkpoint: Checkpoint) -> State:
        dense = MaskSet.dense(problem.f.scope, problem.partition.names)
        score = scores.parse(settings.first)
        fresh = replace(problem, samples_seen=0)  # the search that follows counts its own samples
        masks = extract(
            fresh, rewound, dense, [count], 0, score=score, checkpoint=checkpoint, **_cut(settings)
        )
        return {"masks": masks.pack()}, {"seen": fresh.samples_seen}

    return compute


def later(settings: Settings, T: int) -> TrainConfig:
    """The recipe of the search at the learning rate with which its first round, of T steps, ended."""
    config = settings.search
    return config.tail(config.rate(T - 1, T)) if T else config


def _cut(settings: Settings) -> dict[str, Any]:
    """How masks are cut from scores."""
    return {
        "selection": settings.selection,
        "granularity": settings.granularity,
        "floor": settings.floor,
    }
