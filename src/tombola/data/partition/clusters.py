"""Subsets found by clustering vectors: features of the samples, or embeddings of their names.

Shape letters: S samples of a split, N points, D features, K clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import PartitionError, unknown
from tombola.data.dataset import SPLITS, Data, Split
from tombola.data.partition.partition import Partition

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Features = Callable[[Split], Any] | Mapping[str, Any]
METHODS = ("kmeans", "hdbscan")


def by_clusters(
    data: Data,
    features: Features,
    k: int | None = None,
    method: str = "kmeans",
    *,
    min_size: int = 50,
    seed: int = 0,
) -> Partition:
    """One subset per cluster of feature vectors, called ``cluster 0``, ``cluster 1`` and so on.

    Clusters are fitted on the training split alone. In every split a sample then belongs to the cluster
    whose centre (the mean of its members) is nearest, so that the rule is the same where it was fitted
    and where it is used. Distances are Euclidean: scale the features first if their units differ.

    Args:
        data: the data.
        features: vectors ``[S, D]`` of each split: a function of the split, or arrays or tensors by
            the split's name.
        k: how many clusters; for ``kmeans``, which cannot find out.
        method: ``kmeans`` (Lloyd's algorithm, the best of ten starts) or ``hdbscan`` (Campello et al.,
            2013), which finds their number; its noise belongs to the nearest cluster.
        min_size: the fewest training samples that make a cluster of ``hdbscan``.
        seed: of the starts of ``kmeans``.

    Raises:
        PartitionError: features of another length or with NaN; k above the number of different
            samples; HDBSCAN sees only noise; a cluster without a sample in some split (it is named).

    >>> x = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 20])
    >>> data = Data.of(x, torch.zeros(100, dtype=torch.long))
    >>> sorted(by_clusters(data, lambda split: split.x, k=2).names)
    ['cluster 0', 'cluster 1']
    """
    vectors = {split: _vectors(features, split, data.split(split)) for split in SPLITS}
    widths = {split: found.shape[1] for split, found in vectors.items()}
    if len(set(widths.values())) > 1:
        raise PartitionError(f"features differ in width between splits: {widths}")
    if method == "kmeans":
        labels = _kmeans(vectors["train"], k, seed)
    elif method == "hdbscan":
        if k is not None:
            raise PartitionError("hdbscan finds the number of clusters: leave out k, or use method='kmeans'")
        labels = density_clusters(vectors["train"], min_size)
    else:
        raise PartitionError(unknown("clustering method", method, METHODS))
    centres_KD = centres(vectors["train"], labels)
    from sklearn.metrics import pairwise_distances_argmin  # the package is read without: seconds

    members = {}
    for split, found in vectors.items():
        nearest = torch.from_numpy(pairwise_distances_argmin(found, centres_KD))
        members[split] = torch.nn.functional.one_hot(nearest.long(), len(centres_KD)).bool()
    return Partition(tuple(f"cluster {i}" for i in range(len(centres_KD))), members)


def density_clusters(points_ND: Floats, min_size: int, selection: str = "eom") -> Integers:
    """The number of the cluster of each point, int64 ``[N]``, by HDBSCAN.

    Points that HDBSCAN leaves out as noise go to the cluster with the nearest centre. ``selection`` is
    ``eom`` (excess of mass: clusters as large as they last) or ``leaf`` (the finest ones).

    Raises:
        PartitionError: all points are noise, or fewer than ``min_size``.

    >>> density_clusters(np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [3.0]]), min_size=2).tolist()
    [0, 0, 0, 1, 1, 1, 0]
    """
    if not _between(min_size, 2, len(points_ND)):
        raise PartitionError(
            f"min_size is a whole number from 2 to the {len(points_ND)} points: got {min_size}"
        )
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import pairwise_distances_argmin

    model = HDBSCAN(min_cluster_size=int(min_size), cluster_selection_method=selection, copy=True)
    labels: Integers = model.fit_predict(points_ND)
    noise = labels < 0
    if noise.all():
        raise PartitionError(
            f"HDBSCAN finds no clusters of {min_size} or more among {len(labels)} points, only noise: lower "
            "min_size, or say how many there are with kmeans"
        )
    if noise.any():
        kept = centres(points_ND[~noise], labels[~noise])
        labels[noise] = pairwise_distances_argmin(points_ND[noise], kept)
    return labels.astype(np.int64)


def centres(points_ND: Floats, labels_N: Integers) -> Floats:
    """The mean of each cluster ``[K, D]``."""
    return np.stack([points_ND[labels_N == i].mean(0) for i in range(int(labels_N.max()) + 1)])


def _between(value: object, least: int, most: int) -> bool:
    return isinstance(value, int | np.integer) and least <= int(value) <= most


def _kmeans(points_ND: Floats, k: int | None, seed: int) -> Integers:
    if k is None or not _between(k, 2, len(points_ND)):
        raise PartitionError(
            f"kmeans needs the number of clusters k, from 2 to the {len(points_ND)} training samples: got {k}"
        )
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of too few different points: said below
        labels: Integers = KMeans(int(k), n_init=10, random_state=seed).fit_predict(points_ND)
    found = np.unique(labels)
    if len(found) < k:
        empty = sorted(set(range(int(k))) - set(found.tolist()))
        names = ", ".join(f"'cluster {i}'" for i in empty[:5])
        raise PartitionError(
            f"{names} of {k} would be empty: the training samples have only {len(found)} different features"
        )
    return labels


def _vectors(features: Features, name: str, split: Split) -> Floats:
    if isinstance(features, Mapping):
        if name not in features:
            raise PartitionError(f"features of the {name} split are missing: there are {list(features)}")
        given = features[name]
    else:
        given = features(split)
    try:
        given = given.detach().cpu() if isinstance(given, Tensor) else given
        vectors = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PartitionError(f"features of the {name} split are no array of numbers: {error}") from None
    if vectors.ndim != 2 or len(vectors) != len(split):
        raise PartitionError(
            f"features of the {name} split have shape {vectors.shape}; one vector per sample is needed, "
            f"({len(split)}, D)"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise PartitionError(
            f"features of the {name} split hold NaN or infinite values in {len(bad)} samples (the first is "
            f"number {bad[0]})"
        )
    return vectors
