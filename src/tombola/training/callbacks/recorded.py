"""Similarity as a run records it after every round of a search."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import DEPTHS, compare

RECORDED = 32  # tickets up to which the thirds of the depth are recorded too


def similarity_rows(masks: MaskSet) -> list[dict[str, Any]]:
    """What a run records of its tickets after a round, in plain values: one row per depth and kind.

    ``matrix`` is ``[K, K]``, rounded to four digits, None where kappa is undefined. With more tickets
    than `RECORDED` only all layers together, so that records stay small; so with fewer than three layers.

    >>> from tombola.masks.layout import Layout
    >>> masks = MaskSet.dense(Layout(("w",), ((2, 2),)), ["a", "b"])
    >>> similarity_rows(masks)[0]
    {'kind': 'jaccard', 'depth': 'all', 'density': 1.0, 'matrix': [[1.0, 1.0], [1.0, 1.0]]}
    """
    found = compare(masks)
    few = len(masks) <= RECORDED and len(found.layers) >= len(DEPTHS)
    parts = {"all": found, **found.by_depth()} if few else {"all": found}
    density = int(masks.masks_KN.sum()) / masks.masks_KN.numel()
    return [
        {"kind": kind, "depth": depth, "density": density, "matrix": _plain(matrix)}
        for depth, part in parts.items()
        for kind, matrix in (("jaccard", part.jaccard()), ("kappa", part.kappa()))
    ]


def _plain(matrix: Tensor) -> list[list[float | None]]:
    return [[None if math.isnan(v) else round(v, 4) for v in row] for row in matrix.tolist()]
