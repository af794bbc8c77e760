"""Units: the weights or groups of one layer, that stay or go as one.

Shape letters: N weights in scope, n of one layer, U units, s weights of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.masks.layout import Layout
from tombola.pruning.granularity import Granularity, Weight, members
from tombola.pruning.top import keep_top, keep_whole


@dataclass
class Units:
    """What one layer can keep or lose: scores ``[U]`` and weights left ``[U]`` of its weights or groups.

    Where units are groups, ``members_Us`` holds the positions of their weights in the layer; where they
    are weights it is None, and ``left_U`` is the layer's mask.
    """

    scores_U: Tensor
    left_U: Tensor
    mask_n: Tensor
    members_Us: Tensor | None = None

    def count(self, kept_U: Tensor | None = None) -> int:
        """Weights left in these units, in all by default."""
        return int(self.left_U.sum() if kept_U is None else self.left_U[kept_U].sum())

    def best(self, floor: int) -> Tensor:
        """The best units, boolean ``[U]``: as many as the floor says, or all there are."""
        alive_U = self.left_U > 0
        if not floor:
            return torch.zeros_like(alive_U)
        return keep_top(self.scores_U, min(floor, int(alive_U.count_nonzero())), alive_U)

    def more(self, kept_U: Tensor, weights: int) -> Tensor:
        """These units, and of the others the best that fit into so many weights."""
        return kept_U | keep_whole(self.scores_U, self.left_U.masked_fill(kept_U, 0), weights)

    def mask(self, kept_U: Tensor) -> Tensor:
        """The layer's mask, boolean ``[n]``, if these units are kept."""
        if self.members_Us is None:
            return kept_U
        inside_n = torch.zeros_like(self.mask_n)
        inside_n[self.members_Us[kept_U]] = True
        return inside_n & self.mask_n


def units(
    mask_N: Tensor, scores_N: Tensor, scope: Layout, kind: Granularity, transposed: Mapping[str, int]
) -> list[Units]:
    """Per layer its weights or groups, with the mean score of the weights that are left in each."""
    layers = list(zip(mask_N.split(scope.sizes), scores_N.split(scope.sizes), strict=True))
    if kind == Weight():
        return [Units(scores, mask, mask) for mask, scores in layers]
    found = []
    for (mask, scores), at in zip(layers, members(kind, scope, transposed), strict=True):
        at_Us = at.to(mask.device)
        inside_Us = mask[at_Us]
        left_U = inside_Us.sum(1)
        total_U = torch.where(inside_Us, scores[at_Us], 0).sum(1, dtype=torch.float64)
        found.append(Units(total_U / left_U.clamp(min=1), left_U, mask, at_Us))
    return found
