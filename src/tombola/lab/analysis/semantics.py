"""Do tickets of related classes look alike? Mask similarity against the meaning of names.

Spearman's rank correlation of two similarity matrices over the pairs of names, with a permutation test
(Mantel, Cancer Research 1967) and a bootstrap interval. Pairs that share a name are not independent, so
neither counts pairs: the test permutes names, the bootstrap draws names.

Apply it to the masks of each sparsity or stage of training in turn; `align_by_depth` does the thirds of
depth. Shape letters: K names, P = K (K − 1) / 2 pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tombola._utils.errors import UsageError
from tombola.lab.analysis.named import Measure, Named
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import compare

Floats = NDArray[np.float64]
Alternative = Literal["greater", "two-sided"]
_TIE = 1e-12  # correlations that differ by rounding are equal
_AT_ONCE = 1 << 22  # ranks that are in memory at once: 32 MB


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
    at random. With K names it is at least 1 / K!: four names cannot reach .04.

    The bootstrap draws K names with replacement; pairs of a name with itself are left out. With few names the
    interval is a rough one.

    Args:
        masks: similarity of masks (`Named.of_masks`); its names are those that count.
        meaning: similarity of the names (`Named.read`, `Named.of_vectors`, `wordnet.path_similarity`); it
            may hold more of them, in any order.
        permutations: how many.
        bootstraps: how many; none gives an interval of NaN.
        alternative: ``greater`` (related classes have more similar masks) or ``two-sided``.
        seed: of permutations and bootstrap.

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
    rng = np.random.default_rng((seed, 0))
    p = float(mantel(x[None], y, K, permutations, alternative, rng)[0])
    ci95 = _interval(masks.values_KK, meaning.values_KK, bootstraps, np.random.default_rng((seed, 1)))
    return Alignment(rho, p, ci95, K, len(x))


def align_by_depth(
    masks: MaskSet, meaning: Named, measure: Measure = "kappa", seed: int = 0
) -> dict[str, Alignment]:
    """`align` for ``all`` layers and for the ``shallow``, ``middle`` and ``deep`` third of them.

    Raises:
        UsageError: as in `align`, or fewer than three tickets.
        MaskError: fewer than three layers.
    """
    everything = compare(masks)
    parts = {"all": everything, **everything.by_depth()}
    return {
        part: align(Named.of_masks(shared, masks.names, measure), meaning, seed=seed)
        for part, shared in parts.items()
    }


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation, ties by mean rank; NaN if a value is, or if one side is constant.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 6)
    0.5
    """
    if len(x) < 2 or np.isnan(x).any() or np.isnan(y).any():
        return math.nan
    a, b = _ranks(x), _ranks(y)
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(np.clip(a @ b / size, -1, 1)) if size else math.nan


def _ranks(x: Floats) -> Floats:
    """Ranks along the last axis, less their mean."""
    ranks: Floats = rankdata(x, axis=-1)
    return ranks - ranks.mean(-1, keepdims=True)


def _orders(K: int, most: int, rng: np.random.Generator) -> tuple[Iterator[NDArray[np.intp]], bool]:
    """Orders of K names to test against: all (and True), or ``most`` drawn at random."""
    if K < 20 and math.factorial(K) <= most:  # 20! is beyond anything
        return map(np.array, itertools.permutations(range(K))), True
    return (rng.permutation(K) for _ in range(most)), False


def mantel(
    x_TP: Floats, y_P: Floats, K: int, permutations: int, alternative: Alternative, rng: np.random.Generator
) -> Floats:
    """p-values ``[T]`` of T rank correlations with one meaning, from the same orders of the K names.

    NaN where one side is constant.
    """
    # Another order of the names moves the ranks of one matrix about and changes none: rank once.
    upper, a_TP, b_P = np.triu_indices(K, 1), _ranks(x_TP), _ranks(y_P)
    size_T = np.sqrt((a_TP * a_TP).sum(1) * float(b_P @ b_P))
    size_T[size_T == 0] = math.nan
    rho_T = a_TP @ b_P / size_T
    ranks_KK = np.zeros((K, K))
    ranks_KK[upper] = b_P
    ranks_KK += ranks_KK.T
    orders, exact = _orders(K, permutations, rng)
    count_T, drawn = np.zeros(len(x_TP)), 0
    while some := list(itertools.islice(orders, max(1, _AT_ONCE // len(y_P)))):
        moved = np.argsort(np.array(some), axis=1)
        drawn_Tn = a_TP @ ranks_KK[moved[:, upper[0]], moved[:, upper[1]]].T / size_T[:, None]
        if alternative == "two-sided":
            count_T += (np.abs(drawn_Tn) >= np.abs(rho_T[:, None]) - _TIE).sum(1)
        else:
            count_T += (drawn_Tn >= rho_T[:, None] - _TIE).sum(1)
        drawn += len(some)
    p_T: Floats = count_T / drawn if exact else (count_T + 1) / (drawn + 1)
    p_T[np.isnan(rho_T)] = math.nan
    return p_T


def _interval(x_KK: Floats, y_KK: Floats, bootstraps: int, rng: np.random.Generator) -> tuple[float, float]:
    K, found = len(x_KK), []
    rows, columns = np.triu_indices(K, 1)
    for _ in range(bootstraps):
        drawn = rng.integers(K, size=K)
        one, two = drawn[rows], drawn[columns]
        other = one != two
        found.append(spearman(x_KK[one[other], two[other]], y_KK[one[other], two[other]]))
    known = [rho for rho in found if not math.isnan(rho)]  # a draw of few names may be constant
    if not known:
        return math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
