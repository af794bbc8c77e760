"""Similarity of masks, corrected for chance.

Two random masks overlap too, the more the denser a layer is. Raw Jaccard (Eq. 8,
`tombola.MaskSet.jaccard`) therefore moves with sparsity and with the layer profile alone; kappa does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.masks import MaskSet, overlaps


def kappa(a: MaskSet, b: MaskSet) -> Tensor:
    """Chance-corrected overlap of every mask of ``a`` with every mask of ``b``, float64 ``[Ka, Kb]``.

    With layer sizes ``n_l``, counts ``a_l``, ``b_l`` and overlap ``I_l``: ``E_l = a_l b_l / n_l`` and
    ``kappa = Σ(I_l − E_l) / Σ(min(a_l, b_l) − E_l)``. 0 for independent masks of the same layer
    densities, 1 for nested ones; NaN where every layer is full or empty.

    >>> from tombola.layout import Layout
    >>> w = Layout(("w",), ((4,),))
    >>> a = MaskSet(w, {"a": torch.tensor([1, 1, 0, 0])})
    >>> kappa(a, a).item(), kappa(a, MaskSet(w, {"b": torch.tensor([1, 0, 1, 0])})).item()
    (1.0, 0.0)
    """
    above = torch.zeros(len(a), len(b), dtype=torch.float64)
    most = torch.zeros_like(above)
    sizes = a.scope.sizes
    layers = zip(sizes, a.masks_KN.split(sizes, 1), b.masks_KN.split(sizes, 1), strict=True)
    counts = zip(a.counts_KL().double().T, b.counts_KL().double().T, strict=True)
    for (n, a_l, b_l), (ka, kb) in zip(layers, counts, strict=True):
        ka, kb = ka[:, None], kb[None, :]
        expected = ka * kb / n
        above += overlaps(a_l, b_l) - expected
        most += torch.minimum(ka, kb) - expected
    return above / most
