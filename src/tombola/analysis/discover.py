"""Subsets found from the data: groups are split where their parts disagree, merged where they agree.

Start with groups that are surely fine enough (classes, tenants, cameras, clusters of features), and measure
their affinity (`tombola.analysis.affinity`) at a network trained a few steps for all. The two groups that
agree most become one, again and again, until no two agree: their affinity lies below ``enough``, and below 1
by more than resampling explains. So K comes out of a test; where it is given, merging ends there. Groups that
are not fine enough, or one of all samples, are first split (`tombola.analysis.split`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.errors import UsageError
from tombola.analysis.affinity import Affinity, affinity, quantiles
from tombola.analysis.reassign import assign
from tombola.analysis.split import split
from tombola.data.dataset import Data
from tombola.data.partition import Partition, by_rule
from tombola.data.partition.clusters import Features
from tombola.objectives import Objective

Groups = list[list[int]]
ROUNDS = 20  # of moving groups; few are needed


def discover(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    fine: Partition | None = None,
    *,
    features: Features | None = None,
    K: int | None = None,
    enough: float = 0.5,
    most: float = 1.0,
    **options: Any,
) -> Partition:
    """A partition whose subsets are unions of groups that agree.

    Args:
        backbone: the dense network; it is not changed.
        objective: what tickets are to be trained by.
        data: only its training samples are read, and features.
        fine: groups that belong together whatever comes: classes, values of a column, clusters of features
            (`tombola.partition.by_column`, `by_clusters`). With features they may be coarse; without groups
            all samples are one.
        features: vectors ``[S, D]`` of the samples of each split, by which groups are split before any are
            merged; groups stay whole by default.
        K: how many subsets; by default as many as do not agree.
        enough: groups of this affinity are merged though they differ by more than noise.
        most: the largest share of the training samples that a subset may have. Where merging gives more,
            groups move to the subset with which they agree best among those that have room.
        options: of `tombola.affinity`: ``points``, ``batches``, ``seed``, ``settings`` and fields of them.

    Raises:
        UsageError: more subsets than groups are asked for, neither groups nor features are given, or groups
            cannot be shared out so evenly.

    >>> import tombola as tb
    >>> x, turned = torch.randn(400, 8), torch.arange(400) % 4
    >>> y = (x[:, 0] > 0).long() ^ (turned > 1).long()  # the third and fourth camera answer the other way
    >>> data = tb.Data.of(x, y, {"camera": turned.numpy()})
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> fine = tb.partition.by_column(data, "camera")
    >>> tb.discover(net, tb.objectives.Classification(), data, fine).names
    ('0+1', '2+3')
    """
    return discovery(
        backbone, objective, data, fine, features=features, K=K, enough=enough, most=most, **options
    ).partition


def discovery(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    fine: Partition | None = None,
    *,
    features: Features | None = None,
    K: int | None = None,
    enough: float = 0.5,
    most: float = 1.0,
    **options: Any,
) -> Discovery:
    """The same with the affinities that it was made by; arguments are those of `discover`."""
    if not 0 < most <= 1:
        raise UsageError(f"most is a share of the samples, above 0 and at most 1: got {most}")
    if K is not None and (isinstance(K, bool) or not isinstance(K, int) or K < 1):
        raise UsageError(f"K is a number of subsets, at least 1: got {K!r}")
    if features is not None:
        coarse = fine or by_rule(data, lambda part: {"all": torch.ones(len(part), dtype=torch.bool)})
        fine = split(backbone, objective, data, coarse, features, enough=enough, **options)
    if fine is None:
        raise UsageError(
            "give groups to merge (tombola.partition.by_column), or features= to split all samples by"
        )
    if K is not None and len(fine) < K:
        there = "that splitting found" if features is not None else "that there are"
        raise UsageError(f"K is between 1 and the {len(fine)} groups {there}: got {K}")
    found = affinity(backbone, objective, data, fine, **options)
    groups = merge(found, K, enough)
    if K is None and len(groups) * most < 1:  # as few as have room for all
        groups = merge(found, min(math.ceil(1 / most), len(fine)))
    if most < 1:
        groups = balanced(found, groups, list(fine.sizes("train").values()), most)
    made = fine.merged({"+".join(fine.names[k] for k in group): group for group in groups})
    return Discovery(made, found, groups, enough)


@dataclass(frozen=True)
class Pair:
    """Two groups, their affinity, and the one from which on they would be merged."""

    names: tuple[str, str]
    affinity: float
    bound: float


@dataclass(frozen=True)
class Discovery:
    """Subsets that were found, and how near each is to being others.

    Attributes:
        partition: the subsets.
        affinity: of the groups that were merged.
        groups: numbers of the groups of each subset.
        enough: groups of this affinity are merged though they differ by more than noise.
    """

    partition: Partition
    affinity: Affinity
    groups: Groups
    enough: float

    def within(self, j: int) -> Pair | None:
        """The two groups in a subset that agree least; None where there are no two."""
        pairs = list(combinations(self.groups[j], 2))
        return self._pair(self.affinity.names, [[k] for k in range(len(self.affinity.names))], pairs, -1)

    def nearest(self, j: int) -> Pair | None:
        """A subset and the one that it agrees with most, as unions; None where there is one."""
        pairs = [(j, other) for other in range(len(self.groups)) if other != j]
        return self._pair(self.partition.names, self.groups, pairs, 1)

    def _pair(
        self, names: Sequence[str], groups: Groups, pairs: list[tuple[int, int]], sign: int
    ) -> Pair | None:
        matrix = (sign * self.affinity.matrix(groups=groups)).nan_to_num(-torch.inf)
        known = [pair for pair in pairs if matrix[pair].isfinite()]  # of a subset without a signal none is
        if not known:
            return None
        a, b = max(known, key=lambda pair: float(matrix[pair]))
        floor = float(self.affinity.bound(groups=[groups[a], groups[b]])[0, 1])
        return Pair((names[a], names[b]), sign * float(matrix[a, b]), min(self.enough, floor))


def merge(found: Affinity, K: int | None = None, enough: float = 0.5) -> Groups:
    """Numbers of the subsets that belong together, by average linkage of gradients.

    Unions are compared by all gradients of their members, so a union of some that do not agree has less in
    common with others, and no chain of neighbours is merged to a whole.
    """
    # Layers and points are summed once, and not again for every union.
    found = replace(found, layers=("",), points=(0,), gram_PLRR=found.gram_PLRR.sum((0, 1), keepdim=True))
    groups = [[k] for k in range(len(found.names))]
    while len(groups) > (K or 1):
        a, b = _closest(found.matrix(groups=groups))
        if K is None and not _agree(found, groups, a, b, enough):
            break
        groups[a] += groups.pop(b)
    return sorted(sorted(group) for group in groups)


def balanced(found: Affinity, groups: Groups, sizes: Sequence[int], most: float) -> Groups:
    """Subsets of which none has more than this share of all samples, from those of merging.

    Each fine group goes where it agrees best with the others, by the mean of its affinities with them, again
    and again as in k-means.
    """
    near_KK = found.matrix().nan_to_num(0).clamp(-1, 1).fill_diagonal_(0)
    for _ in range(ROUNDS):
        members_KJ = torch.stack(
            [torch.zeros(len(sizes)).index_fill(0, torch.tensor(g), 1) for g in groups], 1
        )
        others_KJ = (members_KJ.sum(0) - members_KJ).clamp(min=1)
        before, groups = groups, assign(-(near_KK @ members_KJ.double()) / others_KJ, sizes, most)
        if groups == before:
            break
    return groups


def _closest(matrix_JJ: Tensor) -> tuple[int, int]:
    """The pair that agrees most; pairs of which nothing is known come last."""
    upper = matrix_JJ.nan_to_num(-torch.inf).triu(1) + torch.full_like(matrix_JJ, -torch.inf).tril()
    a, b = divmod(int(upper.argmax()), len(matrix_JJ))
    return (a, b) if a < b else (0, 1)


def _agree(found: Affinity, groups: Sequence[Sequence[int]], a: int, b: int, enough: float) -> bool:
    pair = [groups[a], groups[b]]
    if float(found.matrix(groups=pair)[0, 1]) >= enough:
        return True
    high = quantiles(found.resampled(groups=pair)[:, 0, 1], 0.95)[1]
    return bool(high.isnan() or high >= 1)
