"""Affinity: how much subsets agree about the weights in scope, read off gradients before any search.

The affinity of subsets a and b is the cosine of their expected gradients at weights of one network for all,

    A_ab = <g_a, g_b> / sqrt(<g_a, g_a> <g_b, g_b>),   g_k = E ∇_θ L(f(x^k; θ), y^k).

A mean over few batches is noisy, so that its cosine is below 1 even for two halves of one subset (the twin
floor). All three products are therefore means over pairs of *different* batches, whose noise is independent:
that is the cosine of two means over the cosine which twins reach. It is 1 where contexts agree, 0 where they
ask for unrelated changes, below 0 where they pull against each other. Gradients are taken at several points
of a short training and count by the inverse of their noise: at the start labels have said little yet, and
where a network has learnt its samples nothing but noise is left.

The comparison of tasks by their gradients is old (Yu et al., PCGrad, arXiv 2001.06782; Fifty et al., arXiv
2109.04617). Shape letters: K subsets, B batches of each, P points, L layers, N weights in scope, R = K·B.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.errors import UsageError, unknown
from tombola._utils.rng import generator
from tombola._utils.words import counted, matrix
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline
from tombola.objectives import Objective
from tombola.runs.cache import StageCache
from tombola.settings import Settings, settings_of
from tombola.training.joint import train_jointly
from tombola.training.model import Params
from tombola.training.trainer import Problem

POINTS, BATCHES = (0, 5, 20), 8
SAMPLES = 64  # of a batch at most: many small batches tell more of noise than few large ones
MEMORY = 2**28  # numbers of all gradients together; of larger networks a random part of each layer is read
RESAMPLES = 400


def affinity(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    points: Sequence[int] = POINTS,
    batches: int = BATCHES,
    seed: int = 0,
    settings: Settings | None = None,
    **changes: Any,
) -> Affinity:
    """How much the subsets of a partition agree, before any search.

    Args:
        backbone: the dense network; it is not changed.
        objective: what tickets are to be trained by.
        data: only its training samples are read.
        partition: the subsets.
        points: numbers of steps per subset, of one dense network for all, after which gradients are taken; 0
            are the initial weights. Parameters that are private to a ticket are so here.
        batches: of each subset.
        seed: of the order of batches.
        settings: scope, private parameters, learning rate and batch size are read; ``changes`` are single
            fields of it.

    Raises:
        UsageError: an argument of the wrong kind, or a subset that is too small for so many batches.

    >>> import tombola as tb
    >>> x, y = torch.randn(400, 8), torch.arange(400) % 2
    >>> data = tb.Data.of(x, (x[:, 0] > 0).long() ^ y, {"camera": y.numpy()})
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> found = affinity(net, tb.objectives.Classification(), data, tb.partition.by_column(data, "camera"))
    >>> found.mean < 0  # the second camera answers the other way
    True
    """
    settings = settings_of(settings or Settings(), changes.pop("sparsity", None), changes)
    pipeline = Pipeline(backbone, objective, data, partition, settings, seed, StageCache("no"))
    return measured(pipeline.problem("own", settings.search), pipeline.theta0, points, batches)


@dataclass(frozen=True)
class Affinity:
    """Inner products of the gradients of subsets, from which every affinity follows.

    Attributes:
        names: the subsets.
        layers: the layers in scope.
        points: steps of one network for all, after which gradients were taken.
        gram_PLRR: inner products of the gradients of all batches, in units of their noise, float64
            ``[P, L, K·B, K·B]``, subset by subset.
        samples: that all this took.

    >>> g = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]]).flatten(0, 1)
    >>> Affinity(("cat", "dog"), ("0.weight",), (0,), (g @ g.T)[None, None].double()).matrix().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    points: tuple[int, ...]
    gram_PLRR: Tensor
    samples: int = 0

    def __repr__(self) -> str:
        mean = f", mean={self.mean:.2f}" if len(self.names) > 1 else ""
        return f"Affinity(K={len(self.names)}, points={self.points}, batches={self.batches}{mean})"

    def __str__(self) -> str:
        return "\n".join([*self._about(), "", *matrix(self.names, self.matrix().tolist(), ".matrix()")])

    def _about(self) -> Iterator[str]:
        """What the matrix says in words: mean, bound of noise, the pair that agrees least, the cost."""
        of, pair = f"Affinity of {counted(len(self.names), 'subset')}", self.least()
        if pair is None:
            yield of
        else:
            low, high = self.interval()
            yield (
                f"{of}: mean {self.mean:.2f} ({low:.2f} to {high:.2f}); 1 is full agreement, 0 none, "
                "-1 opposition"
            )
            bounds = self.bound()[~torch.eye(len(self.names), dtype=torch.bool)]
            ends = dict.fromkeys(f"{float(end):.2f}" for end in quantiles(bounds, 1.0))
            yield f"Bound of noise: {' to '.join(ends)}; a pair above it cannot be told from twins (1)"
            yield f"Least between {pair[0]} and {pair[1]}: {pair[2]:.2f}"
        if self.samples:
            yield f"Took {self.samples:,} passes of a sample, forward and backward"

    def least(self) -> tuple[str, str, float] | None:
        """The two subsets that agree least and their affinity; None where no pair is known."""
        values = self.matrix()
        known = [pair for pair in combinations(range(len(self.names)), 2) if values[pair].isfinite()]
        if not known:
            return None
        i, j = min(known, key=lambda pair: float(values[pair]))
        return self.names[i], self.names[j], float(values[i, j])

    @property
    def batches(self) -> int:
        """Batches of each subset, B."""
        return self.gram_PLRR.shape[-1] // len(self.names)

    def matrix(
        self,
        layers: Sequence[str] | None = None,
        points: Sequence[int] | None = None,
        groups: Sequence[Sequence[int]] = (),
    ) -> Tensor:
        """Affinities of all pairs, float64 ``[K, K]``, 1 on the diagonal; NaN where a subset has no signal.

        Args:
            layers: of these alone; by default of the whole network.
            points: at these alone; by default over all.
            groups: of unions of subsets, given by their numbers, in place of the subsets.

        Raises:
            UsageError: a layer that is not in scope, or a point at which nothing was measured.
        """
        once = torch.ones(1, len(self.names), self.batches)
        return _affinities(self._gram(layers, points), once, _members(groups, len(self.names)))[0]

    def by_layer(self) -> dict[str, float]:
        """The mean affinity of all pairs in each layer."""
        return {layer: _mean(self.matrix([layer])[None]).item() for layer in self.layers}

    def by_point(self) -> dict[int, float]:
        """The mean affinity of all pairs at each point."""
        return {point: _mean(self.matrix(points=[point])[None]).item() for point in self.points}

    @property
    def mean(self) -> float:
        """The mean affinity of all pairs, NaN of a single subset."""
        return _mean(self.matrix()[None]).item()

    def resampled(self, count: int = RESAMPLES, groups: Sequence[Sequence[int]] = ()) -> Tensor:
        """Affinities of batches drawn with replacement, ``[count, K, K]``: how sure a matrix is."""
        K, B = len(self.names), self.batches
        drawn = torch.randint(B, (count, K, B), generator=generator(0, "affinity"))
        weights = torch.zeros(count, K, B).scatter_add(2, drawn, torch.ones(count, K, B))
        return _affinities(self._gram(), weights, _members(groups, K))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval of the mean affinity, by resampling batches."""
        low, high = quantiles(_mean(self.resampled()), level).tolist()
        return low, high

    def bound(self, level: float = 0.95, groups: Sequence[Sequence[int]] = ()) -> Tensor:
        """Affinities from which on resampling cannot tell a pair from twins, whose affinity is 1, ``[K, K]``.

        A pair agrees up to noise where the upper end of its interval reaches 1.
        """
        high = [
            row.double().nanquantile((1 + level) / 2, 0) for row in self.resampled(groups=groups).unbind(1)
        ]
        return 1 - (torch.stack(high) - self.matrix(groups=groups))

    def _gram(self, layers: Sequence[str] | None = None, points: Sequence[int] | None = None) -> Tensor:
        at = _places("point", points, self.points), _places("layer", layers, self.layers)
        return self.gram_PLRR[at[0]][:, at[1]].sum((0, 1))


def _places(what: str, wanted: Sequence[Any] | None, known: Sequence[Any]) -> list[int]:
    for name in wanted or ():
        if name not in known:
            raise UsageError(unknown(what, name, known))
    return [known.index(name) for name in (known if wanted is None else wanted)]


def _members(groups: Sequence[Sequence[int]], K: int) -> Tensor:
    """Which subset is in which group, float64 ``[K, groups]``; each is one of its own by default."""
    members = (
        torch.zeros(K, len(groups), dtype=torch.float64) if groups else torch.eye(K, dtype=torch.float64)
    )
    for j, group in enumerate(groups):
        members[list(group), j] = 1
    return members


def _affinities(gram_RR: Tensor, weights_nKB: Tensor, members_KJ: Tensor) -> Tensor:
    """Affinities ``[n, J, J]`` of groups, of batches that count as often as their weights say."""
    _, K, B = weights_nKB.shape
    w = weights_nKB.double()
    sums = torch.einsum("nai,aibj,nbj->nab", w, gram_RR.view(K, B, K, B), w)
    pairs = w.sum(2)[:, :, None] * w.sum(2)[:, None]
    # Within a subset a batch is not paired with itself: its noise is not independent of itself.
    k = torch.arange(K)
    sums[:, k, k] -= torch.einsum("nai,ai->na", w.square(), gram_RR.diagonal().view(K, B))
    pairs[:, k, k] -= w.square().sum(2)
    products = (members_KJ.T @ sums @ members_KJ) / (members_KJ.T @ pairs @ members_KJ)
    norms = products.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    found = products / (norms[:, :, None] * norms[:, None])
    found[~found.isfinite()] = torch.nan
    j = torch.arange(members_KJ.shape[1])
    found[:, j, j] = torch.ones_like(norms).where(norms > 0, torch.nan)
    return found


def _mean(matrices_nKK: Tensor) -> Tensor:
    """The mean over pairs of different subsets that are known, ``[n]``."""
    K = matrices_nKK.shape[-1]
    return matrices_nKK[:, ~torch.eye(K, dtype=torch.bool)].nanmean(1)


def quantiles(values: Tensor, level: float) -> Tensor:
    """Lower and upper bound that leave out the same share of values on each side; NaN is left aside."""
    known = values[~values.isnan()].double()
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return known.quantile(ends) if len(known) else torch.full((2,), torch.nan, dtype=torch.float64)


def measured(
    problem: Problem, theta0: Params, points: Sequence[int] = POINTS, batches: int = BATCHES
) -> Affinity:
    """The affinity of the subsets of a problem; the arguments are those of `affinity`, the point before the
    first step ``theta0``."""
    if batches < 2:
        raise UsageError(f"an affinity needs at least 2 batches of each subset: got {batches}")
    if not points or min(points) < 0 or len(set(points)) < len(points):
        raise UsageError(f"points are numbers of steps, 0 or more, each once: got {tuple(points)}")
    training = replace(small_batches(problem), samples_seen=0)
    apart = within_an_epoch(training, batches)
    names, scope = problem.partition.names, problem.f.scope
    dense, gram = MaskSet.dense(scope, names), []
    for steps in points:
        theta = train_jointly(training, theta0, dense, steps, purpose="affinity")
        gram.append(_products(apart, theta, batches, steps))
    seen = apart.samples_seen + training.samples_seen
    return Affinity(names, scope.names, tuple(points), torch.stack(gram), seen)


def _products(problem: Problem, theta: Params, batches: int, steps: int) -> Tensor:
    """Inner products of gradients at θ, layer by layer, ``[L, R, R]``, so that their noise adds up to 1."""
    scope, K, device = problem.f.scope, len(problem.partition), problem.f.device
    ones_N, read = torch.ones(scope.size, dtype=torch.bool, device=device), _parts(scope.sizes, K * batches)
    turns = [(k, problem.stream(k, "affinity", steps), i) for k in range(K) for i in range(batches)]
    found: list[list[Tensor]] = [[] for _ in scope.names]
    problem.f.train()
    for batch in problem.draw(turns):
        for leaf in theta.leaves():
            leaf.grad = None
        problem.gradient(theta, ones_N, batch)
        assert theta.weights_N.grad is not None
        for rows, layer, part in zip(found, theta.weights_N.grad.cpu().split(scope.sizes), read, strict=True):
            rows.append(layer.clone() if part is None else layer[part])
    gram = []
    for rows, size in zip(found, scope.sizes, strict=True):
        g = torch.stack(rows).double()
        gram.append(g @ g.T * (size / g.shape[1]))
    products = torch.stack(gram)
    noise = _noise(products.sum(0), batches)
    return products / noise if noise > 0 else products


def _noise(gram_RR: Tensor, batches: int) -> float:
    """The squared length of what a batch differs by from the mean of its subset, mean over all."""
    R = len(gram_RR)
    own = torch.arange(R) // batches
    same = (own[:, None] == own) & ~torch.eye(R, dtype=torch.bool)
    return float(gram_RR.diagonal().mean() - gram_RR[same].mean())


def small_batches(problem: Problem) -> Problem:
    """The same problem in batches of at most `SAMPLES`."""
    return replace(
        problem, config=replace(problem.config, batch_size=min(problem.config.batch_size, SAMPLES))
    )


def within_an_epoch(problem: Problem, batches: int) -> Problem:
    """The same problem with batches so small that none shares a sample with another of its subset."""
    sizes = [problem.objective.epoch_size(problem.partition, k) for k in range(len(problem.partition))]
    size = min(problem.config.batch_size, min(sizes) // batches) // 2 * 2
    if size == 0:
        least = problem.partition.names[sizes.index(min(sizes))]
        raise UsageError(
            f"subset {least!r} has {min(sizes)} training samples, too few for {batches} batches: merge it "
            "with another, or ask for fewer batches"
        )
    return replace(problem, config=replace(problem.config, batch_size=size))


def _parts(sizes: Sequence[int], gradients: int) -> list[Tensor | None]:
    """The entries of each layer that are kept of its gradients; None for all of them."""
    share = MEMORY / (sum(sizes) * gradients)
    if share >= 1:
        return [None] * len(sizes)
    g = generator(0, "affinity")
    return [torch.randint(size, (max(1, int(size * share)),), generator=g) for size in sizes]
