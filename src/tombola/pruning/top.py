"""The highest scores, of weights or of groups of weights, without a sort.

Exact and deterministic: among equal scores at the threshold, those that come first in the flat order of
the scope are pruned first. Many scores on a CPU with a compiler are told apart by their bits
(`tombola.pruning.radix`); elsewhere the threshold is found by quickselect, which copies the scores and reads
them a few times. Both give the same mask.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import PruningError
from tombola.pruning.radix import Keys


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
    keys = Keys.of(scores, eligible_N, keep)
    if keys is not None:
        _check(keys.nan, keep, keys.count)
        return keys.highest()
    candidates = scores if eligible_N is None else scores[eligible_N]
    nan = bool(candidates.numel()) and bool(candidates.min().isnan())  # the minimum is NaN if any is
    _check(nan, keep, candidates.numel())
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


def _check(nan: bool, keep: int, count: int) -> None:
    if nan:
        raise PruningError("scores contain NaN: lower the learning rate, or check data and loss")
    if not 0 <= keep <= count:
        raise PruningError(f"cannot keep {keep} of {count} weights")


def keep_whole(scores_G: Tensor, left_G: Tensor, budget: int) -> Tensor:
    """Boolean ``[G]``: the highest scores among groups of several sizes, as long as they fit.

    Groups are taken from the highest score down until the next one would exceed the budget; smaller ones
    after it are not pulled forward, so that keeping less keeps a subset. Of equal scores the later is
    taken first. Each pass takes the better half of what is in question, or looks for the end in it: O(G).

    Args:
        scores_G: floating scores of the groups ``[G]``.
        left_G: weights left in each group, int64 ``[G]``; 0: the group is gone and is not kept. Boolean
            if every group is one weight: then exactly ``budget`` are kept.
        budget: how many weights may be kept.

    >>> keep_whole(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([1, 4, 4]), 7).tolist()
    [False, True, False]
    """
    if left_G.dtype == torch.bool:
        return keep_top(scores_G, budget, left_G)
    kept_G, open_ = torch.zeros_like(left_G, dtype=torch.bool), left_G.nonzero()[:, 0]
    while len(open_):
        top = keep_top(scores_G[open_], -(-len(open_) // 2))
        better = open_[top]
        weights = int(left_G[better].sum())
        if weights <= budget:
            kept_G[better] = True
            budget, open_ = budget - weights, open_[~top]
        elif len(open_) > 1:
            open_ = better
        else:
            break
    return kept_G


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    # NumPy's vectorised partition is several times faster than torch.kthvalue on a CPU. It knows no
    # bfloat16, and on a GPU the scores would have to travel: those go through torch.
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return torch.kthvalue(values, k).values
    return torch.tensor(np.partition(values.numpy(), k - 1)[k - 1], dtype=values.dtype)
