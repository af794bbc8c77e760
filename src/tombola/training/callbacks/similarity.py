"""The record of how similar tickets are after every round of a search (Eq. 8 of arXiv 2601.22141)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import DEPTHS, compare
from tombola.training.callbacks.base import Callback, Record

RECORDED = 32  # tickets up to which the thirds of the depth are recorded too


class SimilarityRecord(Callback):
    """Records `similarity_rows` where there are several tickets."""

    def on_round_end(self, round: int, masks: MaskSet, record: Record) -> None:
        """A row per depth and kind."""
        for row in similarity_rows(masks) if len(masks) > 1 else ():
            record(event="similarity", round=round, **row)


def similarity_rows(masks: MaskSet) -> list[dict[str, Any]]:
    """Similarity of all pairs of tickets in plain values: one row per depth and kind.

    ``matrix`` is ``[K, K]``, rounded to four digits, None where kappa is undefined. With more tickets
    than `RECORDED` only all layers together, so that records stay small; so with fewer than three layers.

    >>> from tombola.masks.layout import Layout
    >>> masks = MaskSet.dense(Layout(("w",), ((2, 2),)), ["a", "b"])
    >>> similarity_rows(masks)[0]
    {'kind': 'jaccard', 'depth': 'all', 'density': 1.0, 'matrix': [[1.0, 1.0], [1.0, 1.0]]}
    """
    found, density = compare(masks), masks.density
    few = len(masks) <= RECORDED and len(found.layers) >= len(DEPTHS)
    parts = {"all": found, **found.by_depth()} if few else {"all": found}
    return [
        {"kind": kind, "depth": depth, "density": density, "matrix": _plain(matrix)}
        for depth, part in parts.items()
        for kind, matrix in (("jaccard", part.jaccard()), ("kappa", part.kappa()))
    ]


def _plain(matrix: Tensor) -> list[list[float | None]]:
    return [[None if math.isnan(v) else round(v, 4) for v in row] for row in matrix.tolist()]
