"""The record of what tells collapse: the smallest layer and the similarity of tickets, round by round."""

from __future__ import annotations

import math

from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import compare, mean_over_pairs
from tombola.training.callbacks.base import Callback, Record


class CollapseMonitor(Callback):
    """Records the density, the fewest weights of any layer, and mean kappa."""

    def on_round_end(self, round: int, masks: MaskSet, record: Record) -> None:
        """A row."""
        row: dict[str, float | None] = {"density": int(masks.masks_KN.sum()) / masks.masks_KN.numel()}
        if len(masks) > 1:
            kappa = mean_over_pairs(compare(masks).kappa())
            row["kappa"] = None if math.isnan(kappa) else round_(kappa)
        record(event="watch", round=round, **row)


def round_(value: float) -> float:
    """Six digits."""
    return round(value, 6)
