"""Every method as a composition: whose masks, which task, weights shared or not.

None has a loop of its own. A control replaces one part of RTL: the data order (twin), the scores
(theta0_magnitude), the masks (random_mask), the partition (shuffled_partition), or the sharing of
masks (union_size_imp).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tombola.errors import UsageError, unknown
from tombola.layout import Layout
from tombola.masks import MaskSet
from tombola.pipeline import Pipeline, Source
from tombola.pruning import prune, transposed
from tombola.randomness import generator
from tombola.schedules import kept
from tombola.scoring.magnitude import absolute
from tombola.scoring.random import uniform


@dataclass(frozen=True)
class Method:
    """A composition.

    Attributes:
        summary: one line.
        search: whose search finds the masks; None if no training is spent on them.
        task: what is trained on: all tickets' own subsets, or everything with one mask.
        masks: what becomes of the search, from the pipeline and the sparsity; its masks by default.
        shared: one set of weights for all tickets (Algorithm 2), or a network each.
        told: whether the network is told the context as an input.
        control: whether it is there to be compared with, not to be used.
    """

    summary: str
    search: Source | None = "own"
    task: Source = "own"
    masks: Callable[[Pipeline, float], MaskSet] | None = None
    shared: bool = True
    told: bool = False
    control: bool = False

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
    ones, scores = torch.ones(scope.size, dtype=torch.bool), absolute(pipeline.theta0.weights_N)
    mask = prune(
        ones,
        scores,
        kept(scope.size, sparsity),
        scope,
        s.selection,  # type: ignore[arg-type]
        granularity=s.granularity,
        transposed=transposed(pipeline.backbone),
        floor=s.floor,
    )
    return MaskSet(scope, dict.fromkeys(pipeline.partition.names, mask))


def random_like(pipeline: Pipeline, sparsity: float) -> MaskSet:
    """Random masks with RTL's count in every layer of every ticket."""
    own, scope = pipeline.masks("own", sparsity), pipeline.f.scope
    turned, masks = transposed(pipeline.backbone), {}
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


METHODS: dict[str, Method] = {
    "rtl": Method("one ticket per subset, retrained together on shared weights"),
    "imp": Method("one mask for all data, iterative magnitude pruning", "single", "single"),
    "imp_per_subset": Method("one pruned network per subset, nothing shared", shared=False),
    "dense": Method("one network for all data, nothing pruned", None, "single", dense),
    "imp_context": Method("one mask, the context is an input", "single", "single", told=True),
    "dense_context": Method("nothing pruned, the context is an input", None, "single", dense, told=True),
    "twin": Method("RTL, masks and training in another data order", "twin", "twin", control=True),
    "theta0_magnitude": Method("masks from |theta0| alone", None, masks=theta0_magnitude, control=True),
    "random_mask": Method("random masks, RTL's layer densities", masks=random_like, control=True),
    "shuffled_partition": Method("masks searched on shuffled subsets", "shuffled", control=True),
    "union_size_imp": Method("one mask, as large as RTL's union", "single_union", "single", control=True),
}
CONTROLS = tuple(name for name, method in METHODS.items() if method.control)


def method(name: str) -> Method:
    """A method by its name; an unknown one is an error that lists them."""
    if name not in METHODS:
        raise UsageError(unknown("method", name, METHODS))
    return METHODS[name]
