"""Do tickets of related classes look alike? Mask similarity against the meaning of names.

Spearman's rank correlation of two similarity matrices over the pairs of names, with a permutation test
(Mantel, Cancer Research 1967) and a bootstrap interval; its power; and clusters of tickets against known
groups. Pairs that share a name are not independent, so neither counts pairs: the test permutes names, the
bootstrap draws names.

Shape letters: K names, P = K (K − 1) / 2 pairs, T sets of masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform
from scipy.stats import norm, permutation_test, rankdata, spearmanr
from sklearn.metrics import adjusted_mutual_info_score

from tombola._utils.errors import UsageError
from tombola.lab.analysis.named import Floats, Measure, Named
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import DEPTHS, compare

Alternative = Literal["greater", "two-sided"]
_AT_ONCE = 1 << 22  # numbers that are in memory at once: 32 MB


@dataclass(frozen=True)
class Alignment:
    """Spearman's ``rho`` of two similarities over ``pairs`` pairs of ``names`` names.

    ``p`` is that of the permutation test, ``ci95`` the bootstrap's percentiles. All three are NaN where
    there is no rank correlation: a pair has no similarity (kappa of full or empty masks), or all pairs
    are alike.
    """

    rho: float
    p: float
    ci95: tuple[float, float]
    names: int
    pairs: int


def align(
    masks: Named,
    meaning: Named,
    permutations: int = 9999,
    bootstraps: int = 1000,
    alternative: Alternative = "greater",
    seed: int = 0,
) -> Alignment:
    """Rank correlation between the similarity of masks and that of what their names mean.

    ``p`` is the share of permutations of the names, the given order among them, with a ``rho`` as large (in
    size, if ``two-sided``): of all of them if there are no more than ``permutations``, else of so many drawn
    at random. With K names it is at least 1 / K!: four names cannot reach 0.04.

    The bootstrap draws K names with replacement; pairs of a name with itself are left out. With few names the
    interval is a rough one; without ``bootstraps`` it is NaN.

    The names of ``masks`` are those that count; ``meaning`` may hold more, in any order.

    Raises:
        UsageError: names without a meaning, or numbers that make no sense.

    >>> near = Named.of(["cat", "dog", "car"], [[1, 0.8, 0.1], [0.8, 1, 0.3], [0.1, 0.3, 1]])
    >>> found = align(near, near)
    >>> round(found.rho, 6), round(found.p, 6)  # one of 3! = 6 orders of the names
    (1.0, 0.166667)
    """
    if alternative not in ("greater", "two-sided"):
        raise UsageError(f"alternative is 'greater' or 'two-sided': got {alternative!r}")
    if permutations < 1 or bootstraps < 0:
        raise UsageError(f"at least one permutation is needed: got {permutations}, bootstraps {bootstraps}")
    meaning = meaning.select(masks.names)
    K, x, y = len(masks.names), masks.pairs(), meaning.pairs()
    rho = spearman(x, y)
    if math.isnan(rho):
        return Alignment(math.nan, math.nan, (math.nan, math.nan), K, len(x))
    p = mantel(x[None], y, K, permutations, alternative, (seed, 0))[0]
    ci95 = _interval(masks.values_KK, meaning.values_KK, bootstraps, np.random.default_rng((seed, 1)))
    return Alignment(rho, float(p), ci95, K, len(x))


def by_depth(masks: MaskSet, measure: Measure = "kappa") -> dict[str, Named]:
    """Similarity of masks over ``all`` layers and, of three or more, over each third of their depth."""
    everything = compare(masks)
    thirds = everything.by_depth() if len(everything.layers) >= len(DEPTHS) else {}
    parts = {"all": everything, **thirds}
    return {depth: Named.of_masks(part, masks.names, measure) for depth, part in parts.items()}


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation, ties by mean rank; NaN if a value is, or if one side is constant.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 6)
    0.5
    """
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):  # scipy warns
        return math.nan
    return float(spearmanr(x, y).statistic)


def mantel(
    x_TP: Floats, y_P: Floats, K: int, permutations: int, alternative: Alternative, seed: tuple[int, int]
) -> Floats:
    """p-values ``[T]`` of T rank correlations with one meaning, from the same orders of the K names.

    NaN where one side is constant.
    """
    # Another order of the names moves the ranks of one matrix about and changes none: rank once.
    rows, columns = np.triu_indices(K, 1)
    a_TP, b_P = (rankdata(x, axis=-1) - (len(y_P) + 1) / 2 for x in (x_TP, y_P))
    size_T = np.sqrt((a_TP * a_TP).sum(1) * float(b_P @ b_P))
    size_T[size_T == 0] = math.nan
    ranks_KK = squareform(b_P)

    def rho(orders: Floats, axis: int) -> Floats:  # noqa: ARG001
        order = orders[..., 0, :]  # of the names, one for all T
        rho_T: Floats = ranks_KK[order[..., rows], order[..., columns]] @ a_TP.T / size_T
        return np.abs(rho_T) if alternative == "two-sided" else rho_T

    names_TK = np.broadcast_to(np.arange(K), (len(x_TP), K))
    p_T: Floats = permutation_test(
        (names_TK,),
        rho,
        permutation_type="pairings",
        alternative="greater",
        vectorized=True,
        axis=-1,
        n_resamples=permutations,
        batch=max(1, _AT_ONCE // max(len(y_P), names_TK.size)),
        random_state=np.random.default_rng(seed),
    ).pvalue
    return np.where(np.isnan(size_T), math.nan, p_T)


def _interval(x_KK: Floats, y_KK: Floats, bootstraps: int, rng: np.random.Generator) -> tuple[float, float]:
    K, found = len(x_KK), []
    rows, columns = np.triu_indices(K, 1)
    for _ in range(bootstraps):
        drawn = rng.integers(K, size=K)
        one, two = drawn[rows], drawn[columns]
        other = one != two
        found.append(spearman(x_KK[one[other], two[other]], y_KK[one[other], two[other]]))
    known = [rho for rho in found if not math.isnan(rho)]  # a draw of few names may be constant
    low, high = np.quantile(known, [0.025, 0.975]) if known else (math.nan, math.nan)
    return float(low), float(high)


def power(
    meaning: Named,
    rho: float,
    level: float = 0.05,
    trials: int = 1000,
    permutations: int = 999,
    seed: int = 0,
) -> float:
    """The chance that `align` finds an alignment of this size at a level, by simulation.

    Masks whose similarity is ``rho z + sqrt(1 − rho²) e`` on every pair: ``z`` the normal scores of the ranks
    of the meaning, ``e`` independent standard normal noise. Pairs of real masks share tickets, so their noise
    is not independent and the true power is lower.

    Raises:
        UsageError: a correlation that is not between −1 and 1, or no trials.

    >>> near = Named.of(["cat", "dog", "car", "bus"], np.eye(4) + 0.5 - 0.5 * np.eye(4)[::-1])
    >>> power(near, 0.9, trials=5, permutations=5)  # four names: no p below 1 / 4!, and ties
    0.0
    """
    if not -1 < rho < 1 or trials < 1:
        raise UsageError(f"rho lies between -1 and 1 and trials are at least one: got {rho:g} and {trials}")
    K, pairs = len(meaning.names), meaning.pairs()
    z = norm.ppf((rankdata(pairs) - 0.5) / len(pairs))
    z = (z - z.mean()) / (z.std() or 1.0)
    noise = np.random.default_rng((seed, 0)).normal(size=(trials, len(z)))
    x_TP = rho * z + math.sqrt(1 - rho**2) * noise
    return float((mantel(x_TP, pairs, K, permutations, "greater", (seed, 1)) <= level).mean())


# -- groups -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Adjusted mutual information of found and known groups: 1 the same, 0 on average by chance.

    ``chance95`` is what 95% of random assignments of the known groups stay at or below, ``p`` the share of
    them (the given one among them) that agree as well.
    """

    ami: float
    chance95: float
    p: float
    clusters: dict[str, int]


def cluster(similarity: Named, k: int) -> dict[str, int]:
    """k clusters by average linkage on ``1 − similarity``: their numbers by name, in order of appearance.

    Raises:
        UsageError: k that is not between 1 and the number of names, or a pair without similarity.

    >>> near = Named.of(["cat", "car", "dog"], [[1, 0.1, 0.8], [0.1, 1, 0.2], [0.8, 0.2, 1]])
    >>> cluster(near, 2)
    {'cat': 0, 'car': 1, 'dog': 0}
    """
    K = len(similarity.names)
    if not 1 <= k <= K:
        raise UsageError(f"{K} tickets make between 1 and {K} clusters: got {k}")
    if np.isnan(similarity.pairs()).any():
        i, j = map(int, np.argwhere(np.triu(np.isnan(similarity.values_KK), 1))[0])
        raise UsageError(
            f"{similarity.names[i]} and {similarity.names[j]} have no similarity (masks that are full or "
            "empty in every layer): cluster at a higher sparsity"
        )
    apart = -similarity.pairs()
    # Average linkage joins the same whatever is added to all distances, and scipy refuses those below 0,
    # which rounding makes of 1 − kappa for nested masks.
    tree = linkage(apart - apart.min(), method="average")
    found = cut_tree(tree, n_clusters=k)[:, 0].tolist()
    number = {label: i for i, label in enumerate(dict.fromkeys(found))}
    return {name: number[label] for name, label in zip(similarity.names, found, strict=True)}


def agreement(
    similarity: Named, groups: Mapping[str, object], permutations: int = 999, seed: int = 0
) -> Agreement:
    """Clusters of tickets, as many as there are known groups, against these groups.

    The baseline deals the known groups out to the tickets at random, their sizes kept. ``groups`` gives every
    ticket's, such as its superclass; other names are ignored.

    Raises:
        UsageError: tickets without a group, fewer than two groups, or what `cluster` refuses.
    """
    if missing := [name for name in similarity.names if name not in groups]:
        raise UsageError(f"no known group is given for {', '.join(missing)}")
    if permutations < 1:
        raise UsageError(f"at least one permutation is needed: got {permutations}")
    known = np.unique([str(groups[name]) for name in similarity.names], return_inverse=True)[1]
    if not known.any():
        raise UsageError("all tickets are of one group: there is nothing to agree with")
    clusters = cluster(similarity, int(known.max()) + 1)
    found = list(clusters.values())
    test = permutation_test(
        (known,),
        lambda dealt: round(adjusted_mutual_info_score(dealt, found), 12),  # equal but for rounding is equal
        permutation_type="pairings",
        alternative="greater",
        vectorized=False,
        n_resamples=permutations,
        random_state=np.random.default_rng(seed),
    )
    chance95 = float(np.quantile(test.null_distribution, 0.95))
    return Agreement(float(test.statistic), chance95, float(test.pvalue), clusters)
