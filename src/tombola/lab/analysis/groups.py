"""Do the tickets fall into the groups that are known? Clustering by 1 − kappa against given groups.

CIFAR-100's superclasses, for instance. Shape letters: K tickets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.special import rel_entr
from scipy.stats import entropy
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from tombola._utils.errors import UsageError
from tombola.lab.analysis.named import Named


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

    The baseline deals the known groups out to the tickets at random, their sizes kept.

    Args:
        similarity: of the masks (`Named.of_masks`).
        groups: the known group of every ticket, such as its superclass; other names are ignored.
        permutations: how many random assignments.
        seed: of these.

    Raises:
        UsageError: tickets without a group, fewer than two groups, or what `cluster` refuses.
    """
    missing = [name for name in similarity.names if name not in groups]
    if missing:
        raise UsageError(f"no known group is given for {', '.join(missing)}")
    if permutations < 1:
        raise UsageError(f"at least one permutation is needed: got {permutations}")
    known = np.unique([str(groups[name]) for name in similarity.names], return_inverse=True)[1]
    k = int(known.max()) + 1
    if k < 2:
        raise UsageError("all tickets are of one group: there is nothing to agree with")
    clusters = cluster(similarity, k)
    found, rng = list(clusters.values()), np.random.default_rng(seed)
    dealt_RK = np.array([known, *(rng.permutation(known) for _ in range(permutations))])
    ami, *chance = adjusted_information(dealt_RK, np.array(found))
    p = (1 + sum(value >= ami - 1e-12 for value in chance)) / (1 + permutations)
    return Agreement(float(ami), float(np.quantile(chance, 0.95)), p, clusters)


def adjusted_information(dealt_RK: NDArray[np.intp], found_K: NDArray[np.intp]) -> NDArray[np.float64]:
    """Adjusted mutual information ``[R]`` of R orders of the same labels with others.

    What sizes decide (entropies, the information to be expected) is the same for all of them, and is most of
    the work of `sklearn.metrics.adjusted_mutual_info_score`.
    """
    K = len(found_K)
    table = contingency_matrix(dealt_RK[0], found_K)
    expected = expected_mutual_information(table, K)
    most = (entropy(table.sum(0)) + entropy(table.sum(1))) / 2
    joint_RIJ = np.einsum("rki,kj->rij", np.eye(len(table))[dealt_RK], np.eye(table.shape[1])[found_K]) / K
    alone = joint_RIJ.sum(2, keepdims=True) * joint_RIJ.sum(1, keepdims=True)
    information_R = rel_entr(joint_RIJ, alone).sum((1, 2))
    adjusted: NDArray[np.float64] = (information_R - expected) / max(most - expected, np.finfo(float).eps)
    return adjusted
