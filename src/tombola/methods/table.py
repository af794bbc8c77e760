"""Every method as a composition: whose masks, which task, weights shared or not.

None has a loop of its own. A control replaces one part of RTL: the data order (twin), the scores
(theta0_magnitude), the masks (random_mask, same_mask), the partition (shuffled_partition), or the
sharing of masks (union_size_imp, union_size_same_mask).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from tombola._utils.errors import UsageError, unknown
from tombola._utils.rng import generator
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline
from tombola.methods.setup import DataView
from tombola.pruning import prune, transposed
from tombola.pruning.schedules import kept
from tombola.pruning.scores.simple import absolute, uniform
from tombola.settings import Settings
from tombola.training.model import Params


@dataclass(frozen=True)
class Method:
    """A composition.

    Attributes:
        summary: one line.
        search: whose search finds the masks; None if no training is spent on them.
        task: what is trained on: all tickets' own subsets, or everything with one mask.
        masks: what becomes of the search, from the pipeline and the sparsity; its masks by default.
        shared: one set of weights for all tickets (Algorithm 2), or a network each.
        conditioned: whether the network is told the context as an input.
        changes: settings of the search that make the method what it is.
        one_round: whether its search has one round, of as many steps as all rounds of the run's schedule.
        start: where training starts, if not at the rewind point.
        control: whether it is there to be compared with, not to be used.
    """

    summary: str
    search: DataView | None = "own"
    task: DataView = "own"
    masks: Callable[[Pipeline, float], MaskSet] | None = None
    shared: bool = True
    conditioned: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    one_round: bool = False
    start: Callable[[Pipeline], Params] | None = None
    control: bool = False

    def variant(self, pipeline: Pipeline, name: str) -> Pipeline:
        """The pipeline that the method runs on: told the context, or under settings of its own.

        Raises:
            UsageError: the method cannot go with the settings of the run.
        """
        check_fits(name, pipeline.settings)
        pipeline = pipeline.with_context if self.conditioned else pipeline
        if not self.changes:
            return pipeline
        s, N = pipeline.settings, pipeline.f.scope.size
        whole = {"T": s.steps_to(N, kept(N, max(s.sparsity)))} if self.one_round else {}
        return pipeline.under(name, {**whole, **self.changes})

    def mask_set(self, pipeline: Pipeline, sparsity: float) -> MaskSet:
        """The masks at a sparsity."""
        if self.masks is not None:
            return self.masks(pipeline, sparsity)
        return pipeline.masks(self.search or "own", sparsity)


def dense(pipeline: Pipeline, sparsity: float) -> MaskSet:  # noqa: ARG001
    """Nothing pruned."""
    return MaskSet.dense(pipeline.f.scope, ["all"])


def theta0_magnitude(pipeline: Pipeline, sparsity: float) -> MaskSet:
    """The largest initial weights, the same for every ticket: no training, no data."""
    scope, s = pipeline.f.scope, pipeline.settings
    ones, scores = torch.ones(scope.size, dtype=torch.bool), absolute(pipeline.theta0.weights_N).cpu()
    mask = prune(
        ones,
        scores,
        kept(scope.size, sparsity),
        scope,
        s.selection,  # type: ignore[arg-type]
        granularity=s.granularity,
        transposed=transposed(pipeline.f.module),
        floor=s.floor,
    )
    return MaskSet(scope, dict.fromkeys(pipeline.partition.names, mask))


def same(pipeline: Pipeline, sparsity: float, search: DataView = "single") -> MaskSet:
    """The one mask of a search for every ticket; that of imp by default."""
    mask = pipeline.masks(search, sparsity).masks_KN[0]
    return MaskSet(pipeline.f.scope, dict.fromkeys(pipeline.partition.names, mask))


def random_like(pipeline: Pipeline, sparsity: float) -> MaskSet:
    """Random masks with RTL's count in every layer of every ticket."""
    own, scope = pipeline.masks("own", sparsity), pipeline.f.scope
    turned, masks = transposed(pipeline.f.module), {}
    layers = [Layout((name,), (shape,)) for name, shape in zip(scope.names, scope.shapes, strict=True)]
    for name, counts in zip(own.names, own.counts_KL().tolist(), strict=True):
        g = generator(pipeline.seed, "random_mask", sparsity, name)
        scores = uniform(pipeline.theta0.weights_N, g).split(scope.sizes)
        masks[name] = torch.cat(
            [
                prune(
                    torch.ones(layer.size, dtype=torch.bool),
                    s,
                    n,
                    layer,
                    allow_collapse=True,  # where RTL's ticket has nothing left in a layer, it has nothing
                    granularity=pipeline.settings.granularity,
                    transposed=turned,
                )
                for layer, s, n in zip(layers, scores, counts, strict=True)
            ]
        )
    return MaskSet(scope, masks)


def redrawn(pipeline: Pipeline) -> Params:
    """theta0 with the weights of each layer in a new order: another draw from the same distribution.

    For independent initial weights that is what a random re-initialisation is (Frankle and Carbin, arXiv
    1803.03635, Section 2), whatever drew them.
    """
    theta, g = pipeline.theta0.clone(), generator(pipeline.seed, "redrawn")
    for part in theta.weights_N.data.split(pipeline.f.scope.sizes):
        part.copy_(part[torch.randperm(len(part), generator=g)])
    return theta


STANDARD: dict[str, Method] = {
    "rtl": Method("one ticket per subset, retrained together on shared weights"),
    "imp": Method("one mask for all data, iterative magnitude pruning", "single", "single"),
    "imp_per_subset": Method("one pruned network per subset, nothing shared", shared=False),
    "dense": Method("one network for all data, nothing pruned", None, "single", dense),
    "imp_context": Method("one mask, the context is an input", "single", "single", conditioned=True),
    "dense_context": Method(
        "nothing pruned, the context is an input", None, "single", dense, conditioned=True
    ),
    "twin": Method("RTL, masks and training in another data order", "twin", "twin", control=True),
    "theta0_magnitude": Method("masks from |theta0| alone", None, masks=theta0_magnitude, control=True),
    "same_mask": Method(
        "imp's mask for every ticket, trained as RTL's are", "single", masks=same, control=True
    ),
    "random_mask": Method("random masks, RTL's layer densities", masks=random_like, control=True),
    "shuffled_partition": Method("masks searched on shuffled subsets", "shuffled", control=True),
    "union_size_imp": Method("one mask, as large as RTL's union", "single_union", "single", control=True),
    "union_size_same_mask": Method(
        "one mask, as large as RTL's union, for every ticket",
        "single_union",
        masks=partial(same, search="single_union"),
        control=True,
    ),
}

# The toolbox: classics with one mask for all data. Under RTL a classic is a matter of settings:
# ``tombola run EXPERIMENT --method rtl --set score=snip schedule=one_shot nested=false T=0 rewind=0``.
ONCE = {"schedule": "one_shot", "nested": False}
AT_INIT = {**ONCE, "T": 0, "rewind": 0}
EARLY_BIRD = {**ONCE, "callback": "early_bird:0.1:5", "rewinding": "learning_rate"}
LEARNED = {**ONCE, "score": "magnitude", "rewinding": "learning_rate"}
MOVING = {**ONCE, "first": "random", "selection": "erk", "rewinding": "learning_rate"}


def _classic(summary: str, **changes: Any) -> Method:
    return Method(summary, "single", "single", changes=changes)


TOOLBOX: dict[str, Method] = {
    "one_shot": _classic("one mask, pruned once after training", **ONCE),
    "lr_rewinding": _classic(
        "imp that keeps its weights and restarts the learning rate", rewinding="learning_rate"
    ),
    "fine_tuning": _classic("imp that keeps its weights and its last learning rate", rewinding="fine_tune"),
    "early_bird": _classic("one mask, drawn once it stands still between epochs", **EARLY_BIRD),
    "early_bird_channels": _classic(
        "early_bird for whole channels, by the scale of their batch norm",
        **EARLY_BIRD,
        score="gamma",
        granularity="channel",
        floor=1,
    ),
    "hybrid": _classic(
        "one mask, by snip first and then by rounds of imp", first="snip:5", schedule="geometric:4"
    ),
    "snip": _classic("one mask before training, by connection sensitivity", score="snip:5", **AT_INIT),
    "grasp": _classic(
        "one mask before training, by what keeps gradients flowing", score="grasp:5", **AT_INIT
    ),
    "synflow": _classic(
        "one mask before training and without data, in 100 rounds",
        score="synflow",
        **{**AT_INIT, "schedule": "geometric:100"},
    ),
    "random_pruning": _classic("one random mask before training", score="random", **AT_INIT),
    "wanda": _classic(
        "one mask after training, by weights times inputs within output rows",
        score="wanda:5",
        selection="row",
        **ONCE,
    ),
    "taylor": _classic("one mask, by the first-order change of the loss", score="taylor:5"),
    "movement": _classic("one mask, by movement away from zero", score="movement"),
    "set": _classic("one mask that moves at random while it trains", **MOVING, callback="set:0.3:10"),
    "rigl": _classic(
        "one mask that moves to large gradients while it trains", **MOVING, callback="rigl:0.3:10"
    ),
    "learned": replace(
        _classic("one mask, learned with its weights", **LEARNED, callback="learned:0.1"), one_round=True
    ),
    "supermask": replace(
        _classic("one mask, learned on weights that never move", **LEARNED, callback="learned:0.1:frozen"),
        one_round=True,
    ),
    "rtl_learned": Method(
        "RTL whose masks are learned with their weights",
        changes={**LEARNED, "callback": "learned:0.1"},
        one_round=True,
    ),
    **{
        f"low_rank_{rank}": Method(
            f"one mask for every ticket, and a change of rank {rank} of each weight of its own",
            "single",
            masks=same,
            changes={"adapters": rank},
            control=True,
        )
        for rank in (1, 4)
    },
    "reinit": Method(
        "the mask of imp on other initial weights", "single", "single", start=redrawn, control=True
    ),
}
METHODS = {**STANDARD, **TOOLBOX}


def fits(name: str, settings: Settings) -> bool:
    """Whether a method goes with a reference: not if it is about initial weights, which changes have not, nor
    if it gives the first layer another input."""
    return settings.reference == "zero" or not (
        name in ("theta0_magnitude", "reinit") or method(name).conditioned
    )


def check_fits(name: str, settings: Settings) -> None:
    """Raise `UsageError` for a method that does not go with the settings."""
    if not fits(name, settings):
        raise UsageError(
            f"{name} does not go with reference={settings.reference}: changes begin at zero, and the first "
            "layer takes no further input; choose reference=zero"
        )


def check_loop_is_used(name: str, settings: Settings) -> None:
    """Raise `UsageError` where no ticket of a method is trained in a search, in which a loop could run."""
    chosen = method(name)
    if chosen.search is None or not chosen.changes.get("T", settings.T):
        raise UsageError(f"{name} trains no ticket in a search: leave out train_loop, or choose T and method")


def method(name: str) -> Method:
    """A method by its name; an unknown one is an error that lists them."""
    if name not in METHODS:
        raise UsageError(unknown("method", name, METHODS))
    return METHODS[name]
