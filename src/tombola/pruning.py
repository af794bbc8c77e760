"""From scores to a mask: exact counts, global or per layer.

Selection is exact and deterministic: asking for ``keep`` weights keeps that many. Among equal scores
at the threshold, those that come first in the flat order of the scope are pruned first. No sort: the
threshold is found by quickselect, which reads the scores a few times, O(N) on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tombola.errors import LayerCollapse, PruningError
from tombola.layout import Layout

Selection = Literal["global", "layer"]


def keep_top(scores_N: Tensor, keep: int, eligible_N: Tensor | None = None) -> Tensor:
    """Boolean ``[N]`` with exactly ``keep`` True: the highest scores among the eligible ones.

    Args:
        scores_N: floating scores ``[N]``, low = prune first; no NaN among the eligible.
        keep: how many are kept, between 0 and the number of eligible weights.
        eligible_N: boolean ``[N]``, the mask before (all if absent); the result is a subset of it.

    Raises:
        PruningError: NaN scores, more asked for than there are, or shapes that do not fit.

    >>> keep_top(torch.tensor([3.0, 1.0, 1.0, 2.0]), keep=3).tolist()  # of two equal, the first goes
    [True, False, True, True]
    """
    scores = scores_N.detach()
    if eligible_N is not None and (eligible_N.dtype != torch.bool or eligible_N.shape != scores.shape):
        raise PruningError(
            f"a mask of {eligible_N.dtype} {tuple(eligible_N.shape)} does not fit scores of shape "
            f"{tuple(scores.shape)}: it must be boolean and of that shape"
        )
    candidates = scores if eligible_N is None else scores[eligible_N]
    if candidates.numel() and bool(candidates.min().isnan()):  # the minimum is NaN if any is
        raise PruningError("scores contain NaN: lower the learning rate, or check data and loss")
    if not 0 <= keep <= candidates.numel():
        raise PruningError(f"cannot keep {keep} of {candidates.numel()} weights")
    drop = candidates.numel() - keep
    if drop == 0 or keep == 0:
        full = torch.full_like(candidates, keep > 0, dtype=torch.bool)
    else:
        threshold = _kth_smallest(candidates, drop)
        full = candidates > threshold
        missing = keep - int(full.count_nonzero())
        if missing:
            ties = (candidates == threshold).nonzero()[:, 0]
            full[ties[-missing:]] = True
    if eligible_N is None:
        return full
    mask = torch.zeros_like(eligible_N)
    mask[eligible_N] = full
    return mask


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    # NumPy's vectorised partition is several times faster than torch.kthvalue on a CPU. It knows no
    # bfloat16, and on a GPU the scores would have to travel: those go through torch.
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return torch.kthvalue(values, k).values
    return torch.tensor(np.partition(values.numpy(), k - 1)[k - 1], dtype=values.dtype)


def prune(
    mask_N: Tensor,
    scores_N: Tensor,
    keep: int,
    scope: Layout,
    selection: Selection = "global",
    allow_collapse: bool = False,
) -> Tensor:
    """Cut a mask down to ``keep`` weights, the lowest scores first.

    ``global`` compares scores across layers; ``layer`` keeps the same share of what is left in each
    layer (`shares`), the shares rounded so that the total is exact.

    Raises:
        LayerCollapse: a layer would be left empty; ``allow_collapse=True`` lets it.

    >>> layout = Layout(("a", "b"), ((2,), (2,)))
    >>> scores, ones = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(4, dtype=torch.bool)
    >>> prune(ones, scores, 2, layout, "layer").tolist()
    [False, True, False, True]
    """
    if selection == "global":
        pruned = keep_top(scores_N, keep, mask_N)
    elif selection == "layer":
        masks, scores = mask_N.split(scope.sizes), scores_N.split(scope.sizes)
        quotas = shares([int(m.sum()) for m in masks], keep)
        layers = zip(scores, quotas, masks, strict=True)
        pruned = torch.cat([keep_top(s, quota, m) for s, quota, m in layers])
    else:
        raise PruningError(f"selection is 'global' or 'layer': got {selection!r}")
    if not allow_collapse:
        check_collapse(pruned, scope)
    return pruned


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """Split ``total`` in proportion to ``sizes``, in whole numbers, by largest remainder.

    >>> shares([10, 10, 20], 21)
    [5, 5, 11]
    """
    whole = sum(sizes)
    if not 0 <= total <= whole:
        raise PruningError(f"cannot keep {total} of {whole} weights")
    if not whole:
        return [0] * len(sizes)
    exact = [size * total for size in sizes]  # in units of 1 / whole: integers, so no rounding
    parts = [x // whole for x in exact]
    order = sorted(range(len(sizes)), key=lambda i: (-(exact[i] % whole), -i))
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return parts


def check_collapse(mask_N: Tensor, scope: Layout) -> None:
    """Raise `LayerCollapse` with the names of layers that have no weight left."""
    layers = zip(scope.names, mask_N.split(scope.sizes), strict=True)
    empty = [name for name, part in layers if part.numel() and not bool(part.any())]
    if empty:
        raise LayerCollapse(
            f"pruning empties {', '.join(empty)}: the network would be constant. Ask for a lower "
            'sparsity, or set selection="layer" or exclude the layer (tombola.Settings); only '
            "tombola.pruning.prune itself takes allow_collapse=True"
        )
