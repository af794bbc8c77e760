"""Similarity of masks, raw and corrected for chance.

Two random masks overlap too, the more the denser a layer is. Raw Jaccard (Eq. 8 of RTL, arXiv 2601.22141)
therefore moves with sparsity and with the layer profile alone; kappa does not. `compare` keeps the counts of
every layer, from which all readings follow: the whole network, one layer, or a third of its depth.

Shape letters: K tickets of one mask set, J of the other, L layers, N weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola._utils.errors import MaskError, unknown
from tombola.masks.maskset import MaskSet, jaccard, overlaps

DEPTHS = ("shallow", "middle", "deep")


@dataclass(frozen=True)
class Overlaps:
    """Counts that two mask sets share, layer by layer, from which every similarity follows.

    ``sizes_L`` weights, ``a_KL`` and ``b_JL`` kept weights, ``both_KJL`` weights kept by both; all int64.

    A layer in which one of the two masks is full or empty says nothing about likeness, since the overlap is
    then given by the counts; it adds nothing to `kappa`, which is NaN if no other layer is left. `jaccard` of
    two empty masks is 1 and never NaN.
    """

    layers: tuple[str, ...]
    sizes_L: Tensor
    a_KL: Tensor
    b_JL: Tensor
    both_KJL: Tensor

    def kappa(self) -> Tensor:
        """Chance-corrected overlap (see `kappa`), float64 ``[K, J]``."""
        a, b, n = self.a_KL[:, None], self.b_JL[None], self.sizes_L
        tells = (a > 0) & (a < n) & (b > 0) & (b < n)
        expected = a.double() * b.double() / n.clamp(min=1)
        above = torch.where(tells, self.both_KJL - expected, 0.0).sum(-1)
        room = torch.where(tells, torch.minimum(a, b) - expected, 0.0).sum(-1)
        return above / room  # every layer that tells has room: both counts lie strictly between 0 and n

    def jaccard(self) -> Tensor:
        """``J = |a ∧ b| / |a ∨ b|`` (Eq. 8), float64 ``[K, J]``; 1 for two empty masks."""
        return jaccard(self.both_KJL.sum(-1), self.a_KL.sum(-1), self.b_JL.sum(-1))

    def only(self, layers: Sequence[str]) -> Overlaps:
        """The same counts for these layers alone; `MaskError` for a layer that does not exist, or none."""
        for layer in layers:
            if layer not in self.layers:
                raise MaskError(unknown("layer", layer, self.layers))
        if not layers:
            raise MaskError("similarity needs at least one layer: got none")
        at = [self.layers.index(layer) for layer in layers]
        counts = (self.sizes_L, self.a_KL, self.b_JL, self.both_KJL)
        return Overlaps(tuple(layers), *(count[..., at] for count in counts))

    def by_depth(self) -> dict[str, Overlaps]:
        """The counts of the shallow, middle and deep third of the layers (`depths`)."""
        return {depth: self.only(layers) for depth, layers in depths(self.layers).items()}


def depths(layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Layers, in the order of the scope, cut into thirds by their number; the first are the larger."""
    if len(layers) < len(DEPTHS):
        raise MaskError(f"thirds of depth need at least three layers in scope: got {len(layers)}")
    third = [i * len(DEPTHS) // len(layers) for i in range(len(layers))]
    return {
        depth: tuple(layer for layer, t in zip(layers, third, strict=True) if t == d)
        for d, depth in enumerate(DEPTHS)
    }


def compare(a: MaskSet, b: MaskSet | None = None) -> Overlaps:
    """Counts of every mask of ``a`` against every mask of ``b`` (of ``a`` itself if absent)."""
    same = b is None or b is a
    b = a if b is None else b
    if a.scope != b.scope:
        raise MaskError("masks over different weights cannot be compared: both sets need the same scope")
    parts = a.masks_KN.split(a.scope.sizes, dim=1)
    others = parts if same else b.masks_KN.split(b.scope.sizes, dim=1)
    both_KJL = torch.empty(len(a), len(b), len(parts), dtype=torch.int64)
    for layer, (x, y) in enumerate(zip(parts, others, strict=True)):
        both_KJL[:, :, layer] = overlaps(x, y)
    sizes_L = torch.tensor(a.scope.sizes, dtype=torch.int64)
    a_KL = both_KJL.diagonal().T if same else a.counts_KL()
    return Overlaps(a.scope.names, sizes_L, a_KL, a_KL if same else b.counts_KL(), both_KJL)


def kappa(a: MaskSet, b: MaskSet) -> Tensor:
    """Chance-corrected overlap of every mask of ``a`` with every mask of ``b``, float64 ``[Ka, Kb]``.

    With layer sizes ``n_l``, counts ``a_l``, ``b_l`` and overlap ``I_l``: ``E_l = a_l b_l / n_l`` and
    ``kappa = Σ(I_l − E_l) / Σ(min(a_l, b_l) − E_l)``. 0 for independent masks of the same layer
    densities, 1 for nested ones; NaN where in every layer one of the two is full or empty. With equal
    counts in one layer it is Cohen's kappa of the two masks.

    >>> from tombola.masks.layout import Layout
    >>> w = Layout(("w",), ((4,),))
    >>> a = MaskSet(w, {"a": torch.tensor([1, 1, 0, 0])})
    >>> kappa(a, a).item(), kappa(a, MaskSet(w, {"b": torch.tensor([1, 0, 1, 0])})).item()
    (1.0, 0.0)
    """
    return compare(a, b).kappa()


def mean_over_pairs(similarity_KK: Tensor) -> float:
    """Mean over all pairs of different tickets of a matrix ``[K, K]`` without NaN; NaN if no pair is left."""
    K = len(similarity_KK)
    if tuple(similarity_KK.shape) != (K, K) or K < 2:
        shape = tuple(similarity_KK.shape)
        raise MaskError(f"a mean over pairs needs a square matrix of two tickets or more: got shape {shape}")
    pairs = similarity_KK[~torch.eye(K, dtype=torch.bool, device=similarity_KK.device)]
    return float(pairs.double().nanmean())
