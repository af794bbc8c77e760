"""Selection within output rows: every row of a layer keeps the same share of its weights.

The rows are the output channels of `tombola.pruning.granularity.Channel`. Wanda (arXiv 2306.11695, Section 3)
compares weights row by row, because the norms of inputs make scores of one row comparable and no others.

Shape letters: n weights of a layer, R rows, C weights of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola._utils.errors import PruningError
from tombola.pruning.shares import apportion


def best_of_rows(mask_n: Tensor, scores_n: Tensor, keep: int, at_RC: Tensor) -> Tensor:
    """Boolean ``[n]`` with exactly ``keep`` True: of every row its best weights, as many as of any other.

    Where the count cannot be divided, the last rows have one more (as in `tombola.pruning.apportion`); a
    row that has too few left gives what it cannot use to the others. Of equal scores in a row the later in
    the flat order is kept.

    Args:
        mask_n: the layer's mask before; the result is a subset.
        scores_n: floating scores; no NaN among the weights left.
        keep: weights kept in this layer.
        at_RC: flat positions of the weights of each row, int64 ``[R, C]``.

    Raises:
        PruningError: NaN among the scores.

    >>> scores = torch.tensor([1.0, 2, 3, 4, 5, 6])
    >>> at = torch.arange(6).view(2, 3)
    >>> best_of_rows(torch.ones(6, dtype=torch.bool), scores, 3, at).tolist()
    [False, False, True, False, True, True]
    """
    left_RC, scores_RC = mask_n[at_RC], scores_n[at_RC]
    if bool((scores_RC.isnan() & left_RC).any()):
        raise PruningError("scores contain NaN: lower the learning rate, or check data and loss")
    if not mask_n.numel():
        return mask_n.clone()
    counts, (R, C) = left_RC.sum(1).tolist(), at_RC.shape
    quotas_R = torch.tensor(apportion([C] * R, [0] * R, counts, keep))
    order_RC = scores_RC.nan_to_num(0.0, torch.inf, -torch.inf).argsort(dim=1, stable=True)
    order_RC = order_RC.gather(1, left_RC.gather(1, order_RC).int().argsort(dim=1, stable=True))
    rank_RC = torch.empty_like(order_RC)  # those that were pruned before come first, then the lowest scores
    rank_RC.scatter_(1, order_RC, torch.arange(C).expand(R, C))
    kept_n = torch.zeros_like(mask_n)
    kept_n[at_RC] = rank_RC >= C - quotas_R[:, None]
    return kept_n
