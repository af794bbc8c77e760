"""Selection: from scores to a mask. Which layers lose how many, and which weights or groups in them.

``global``   the lowest scores wherever they are.
``layer``    every layer keeps the same share of what it has left.
``uniform``  every layer keeps the same share of all its weights. From a dense mask that is ``layer``; after
             a search that has left layers unequal, it makes them equal again as far as it can.
``erk``      Erdős–Rényi-Kernel densities: small layers are kept denser (`shares.erk`).
``row``      ``uniform``, and within a layer every output row keeps the same share of its weights, as in
             Wanda (arXiv 2306.11695, Section 3): norms of inputs make scores of one row comparable.

Exact and deterministic: among equal scores at the threshold, those that come first in the flat order of the
scope are pruned first.

Shape letters: N weights in scope, n of one layer, G groups of s weights, U units (weights or groups) that
stay or go as one, R rows of C weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import LayerCollapse, PruningError
from tombola.masks.layout import Layout
from tombola.pruning.granularity import Granularity, Pattern, Weight, by_output, members, parse
from tombola.pruning.shares import apportion, erk

Selection = Literal["global", "layer", "uniform", "erk", "row"]
SELECTIONS: tuple[str, ...] = get_args(Selection)


def prune(
    mask_N: Tensor,
    scores_N: Tensor,
    keep: int,
    scope: Layout,
    selection: Selection = "global",
    allow_collapse: bool = False,
    *,
    granularity: str | Granularity = "weight",
    transposed: Mapping[str, int] | None = None,
    floor: int = 0,
) -> Tensor:
    """Cut a mask down to ``keep`` weights, the lowest scores first; the result is a subset of the mask.

    Groups (``channel``, ``block:RxC``) stay or go as a whole, so the count can fall short of ``keep``, by
    less than the largest group, and never exceeds it. (Where an earlier round fell short so far that fewer
    are left than a later one asks for, nothing is pruned.) A group's score is the sum of the scores of
    its weights (the L1 norm, for magnitudes, of arXiv 1608.08710) over their number: within a layer the
    order is that of the sums, and across layers groups of several sizes are compared by what they give
    per weight that they cost, as a budget of weights asks for. (By sums large groups would always win.)
    A weight that was pruned before counts in neither. N:M is a pattern with one density: ``selection``
    and ``floor`` say nothing to it, and the only counts it takes are N / M of all weights, or all.

    Args:
        mask_N: the mask before, boolean ``[N]``; it is not changed.
        scores_N: floating scores ``[N]``, low = prune first; no NaN among the weights left.
        keep: how many weights are kept; exact for single weights and for N:M.
        scope: names and shapes of the layers.
        selection: ``global``, ``layer``, ``uniform``, ``erk`` or ``row``. The shares of layers (and rows)
            are whole numbers with an exact sum; none gets more than it has left. In groups, what does
            not fill a group goes to the layers that miss most of one.
        allow_collapse: let layers be emptied.
        granularity: ``weight``, ``channel``, ``block:RxC`` or ``N:M`` (`tombola.pruning.granularity`).
        transposed: which layers are transposed convolutions, `transposed` of the model; needed for
            every granularity but ``weight``, and for the selection ``row``.
        floor: so many of its best weights (or groups) every layer keeps, all it has if it has fewer; the
            other layers give the rest, and the total stays exact.

    Raises:
        LayerCollapse: a layer would be left empty; ``allow_collapse=True`` lets it, ``floor=1`` avoids it.
        PruningError: scores, counts or layers that do not fit; the message names them.

    >>> layout = Layout(("a", "b"), ((2,), (2,)))
    >>> scores, ones = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(4, dtype=torch.bool)
    >>> prune(ones, scores, 2, layout, "layer").tolist()
    [False, True, False, True]
    >>> prune(ones, scores, 2, layout, floor=1).tolist()  # globally both would be of layer b
    [False, True, False, True]
    >>> rows = Layout(("w",), ((2, 2),))
    >>> prune(ones, scores, 3, rows, granularity="channel", transposed={}).tolist()
    [False, False, True, True]
    """
    kind, at = parse(granularity) if isinstance(granularity, str) else granularity, transposed or {}
    if selection not in SELECTIONS:
        raise PruningError(f"selection is one of {', '.join(SELECTIONS)}: got {selection!r}")
    if floor < 0:
        raise PruningError(f"the floor is at least 0: got {floor}")
    if transposed is None and (kind != Weight() or selection == "row"):
        what = f"granularity {granularity}" if kind != Weight() else "selection row"
        raise PruningError(f"{what} needs transposed=tombola.pruning.transposed(model)")
    if selection == "row" and kind != Weight():
        raise PruningError(f"selection row compares single weights: got granularity {granularity}")
    left = int(mask_N.count_nonzero())
    if not isinstance(kind, Weight | Pattern) and keep <= scope.size:
        keep = min(keep, left)
    if not 0 <= keep <= left:
        raise PruningError(f"cannot keep {keep} of {left} weights")
    if isinstance(kind, Pattern):
        pruned = _pattern(mask_N, scores_N, keep, scope, kind, at)
    elif kind == Weight() and selection == "global" and not floor:
        pruned = keep_top(scores_N, keep, mask_N)  # the usual case
    else:
        layers = _units(mask_N, scores_N.detach(), scope, kind, at)
        kept = _kept(layers, keep, scope, selection, at, floor)
        pruned = torch.cat([layer.mask(kept_U) for layer, kept_U in zip(layers, kept, strict=True)])
    if not allow_collapse:
        check_collapse(pruned, scope)
    return pruned


def _kept(
    layers: Sequence[_Units],
    keep: int,
    scope: Layout,
    selection: Selection,
    transposed: Mapping[str, int],
    floor: int,
) -> Sequence[Tensor]:
    """Units of each layer that are kept, boolean ``[U]``: firm ones, by the floor, and the best others."""
    firm = [layer.best(floor) for layer in layers]
    low = [layer.count(kept_U) for layer, kept_U in zip(layers, firm, strict=True)]
    if sum(low) > keep:
        raise PruningError(
            f"a floor of {floor} takes {sum(low)} weights, only {keep} are to be kept: lower it"
        )
    if selection == "global":
        return _across(layers, firm, keep - sum(low))
    high = [layer.count() for layer in layers]
    weights = {"layer": high, "erk": erk(scope)}.get(selection, scope.sizes)
    quotas = apportion(weights, low, high, keep)
    if selection != "row":
        return _within(layers, firm, quotas)
    stored = [(shape, transposed.get(n, 0)) for n, shape in zip(scope.names, scope.shapes, strict=True)]
    parts = zip(layers, quotas, stored, strict=True)
    return [_best_of_rows(layer.mask_n, layer.scores_U, quota, *how) for layer, quota, how in parts]


def _across(layers: Sequence[_Units], firm: Sequence[Tensor], budget: int) -> Sequence[Tensor]:
    scores = torch.cat([layer.scores_U for layer in layers])
    left = torch.cat([layer.left_U for layer in layers])
    every = _Units(scores, left, left)
    return every.more(torch.cat(list(firm)), budget).split([len(layer.left_U) for layer in layers])


def _within(layers: Sequence[_Units], firm: Sequence[Tensor], quotas: Sequence[int]) -> list[Tensor]:
    """The best units of each layer up to its quota; what fills no whole group goes where most is missing."""
    kept = [u.more(f, quota - u.count(f)) for u, f, quota in zip(layers, firm, quotas, strict=True)]
    missing = [quota - u.count(k) for u, k, quota in zip(layers, kept, quotas, strict=True)]
    spare = sum(missing)
    if not spare:  # always so with single weights
        return kept
    largest = [int(u.left_U.max()) if len(u.left_U) else 1 for u in layers]
    urgency = [Fraction(miss, max(size, 1)) for miss, size in zip(missing, largest, strict=True)]
    for i in sorted(range(len(layers)), key=lambda i: (-urgency[i], -i)):
        if missing[i]:
            before = layers[i].count(kept[i])
            kept[i] = layers[i].more(kept[i], min(spare, missing[i] + largest[i] - 1))
            spare -= layers[i].count(kept[i]) - before
    return kept


def check_collapse(mask_N: Tensor, scope: Layout) -> None:
    """Raise `LayerCollapse` with the names of layers that have no weight left."""
    layers = zip(scope.names, mask_N.split(scope.sizes), strict=True)
    empty = [name for name, part in layers if part.numel() and not bool(part.any())]
    if empty:
        raise LayerCollapse(
            f"pruning empties {', '.join(empty)}: the network would be constant. Ask for a lower "
            'sparsity, or set selection="layer" or floor=1, or exclude the layer (tombola.Settings); only '
            "tombola.pruning.prune itself takes allow_collapse=True"
        )


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
    candidates = scores_N = scores_N.detach()
    count = len(scores_N)
    if eligible_N is not None:
        if eligible_N.dtype != torch.bool or eligible_N.shape != scores_N.shape:
            raise PruningError(
                f"a mask of {eligible_N.dtype} {tuple(eligible_N.shape)} does not fit scores of shape "
                f"{tuple(scores_N.shape)}: it must be boolean and of that shape"
            )
        candidates = _taken(scores_N, eligible_N)  # not filled up: a partition of equal values is slow
        count = len(candidates)
    _refuse_nan(count > 0 and candidates.min().isnan())  # the minimum is NaN if any is
    if not 0 <= keep <= count:
        raise PruningError(f"cannot keep {keep} of {count} weights")
    if keep in (0, count):
        all_N = torch.full_like(scores_N, keep > 0, dtype=torch.bool)
        return all_N if eligible_N is None else all_N & eligible_N
    threshold = _kth_smallest(candidates, count - keep, candidates is not scores_N)
    mask_N = scores_N > threshold
    if eligible_N is not None:
        mask_N &= eligible_N
    if missing := keep - int(mask_N.count_nonzero()):
        ties_N = scores_N == threshold
        at = (ties_N if eligible_N is None else ties_N & eligible_N).nonzero()[:, 0]
        mask_N[at[-missing:]] = True
    return mask_N


def _taken(values: Tensor, mask: Tensor) -> Tensor:
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return values[mask]
    return torch.from_numpy(values.numpy()[mask.numpy()])  # in a fraction of torch's time


def _kth_smallest(values: Tensor, k: int, overwrite: bool = False) -> Tensor:
    # NumPy's vectorised partition is several times faster than torch.kthvalue on a CPU. It knows no
    # bfloat16, and on a GPU the scores would have to travel: those go through torch.
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return torch.kthvalue(values, k).values
    found = values.numpy() if overwrite else values.numpy().copy()
    found.partition(k - 1)
    return torch.tensor(found[k - 1], dtype=values.dtype)


def _refuse_nan(nan: object) -> None:
    if nan:
        raise PruningError("scores contain NaN: lower the learning rate, or check data and loss")


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


@dataclass
class _Units:
    """Weights or groups of one layer, with their scores and the weights left in each.

    Where units are groups, ``members_Us`` holds the positions of their weights in the layer; where they
    are weights it is None, and ``left_U`` is the layer's mask.
    """

    scores_U: Tensor
    left_U: Tensor
    mask_n: Tensor
    members_Us: Tensor | None = None

    def count(self, kept_U: Tensor | None = None) -> int:
        left_U = self.left_U if kept_U is None else self.left_U[kept_U]
        return int(left_U.count_nonzero() if left_U.dtype == torch.bool else left_U.sum())

    def best(self, floor: int) -> Tensor:
        alive_U = self.left_U > 0
        if not floor:
            return torch.zeros_like(alive_U)
        return keep_top(self.scores_U, min(floor, int(alive_U.count_nonzero())), alive_U)

    def more(self, kept_U: Tensor, weights: int) -> Tensor:
        return kept_U | keep_whole(self.scores_U, self.left_U.masked_fill(kept_U, 0), weights)

    def mask(self, kept_U: Tensor) -> Tensor:
        if self.members_Us is None:
            return kept_U
        inside_n = torch.zeros_like(self.mask_n)
        inside_n[self.members_Us[kept_U]] = True
        return inside_n & self.mask_n


def _units(
    mask_N: Tensor, scores_N: Tensor, scope: Layout, kind: Granularity, transposed: Mapping[str, int]
) -> list[_Units]:
    layers = list(zip(mask_N.split(scope.sizes), scores_N.split(scope.sizes), strict=True))
    if kind == Weight():
        return [_Units(scores, mask, mask) for mask, scores in layers]
    found = []
    for (mask, scores), at in zip(layers, members(kind, scope, transposed), strict=True):
        at_Us = at.to(mask.device)
        inside_Us = mask[at_Us]
        left_U = inside_Us.sum(1)
        total_U = torch.where(inside_Us, scores[at_Us], 0).sum(1, dtype=torch.float64)
        found.append(_Units(total_U / left_U.clamp(min=1), left_U, mask, at_Us))
    return found


def _best_of_rows(mask_n: Tensor, scores_n: Tensor, keep: int, shape: Sequence[int], groups: int) -> Tensor:
    """Boolean ``[n]`` with exactly ``keep`` True: of every row its best weights, as many as of any other.

    Where the count cannot be divided, the last rows have one more (as in `apportion`); a row that has too few
    left gives what it cannot use to the others.
    """
    if not mask_n.numel():
        return mask_n.clone()
    left_RC, scores_RC = (_rows(flat, shape, groups) for flat in (mask_n, scores_n))
    _refuse_nan((scores_RC.isnan() & left_RC).any())
    counts_R, (R, C) = left_RC.count_nonzero(1), left_RC.shape
    quotas_R = keep // R + (torch.arange(R) >= R - keep % R)
    if bool((quotas_R > counts_R).any()):
        quotas_R = torch.tensor(apportion([C] * R, [0] * R, counts_R.tolist(), keep))
    kept_RC = torch.empty_like(left_RC)
    for quota in quotas_R.unique().tolist():  # two at most, unless rows had too few
        rows = quotas_R == quota
        kept_RC[rows] = best_of_each(scores_RC[rows], quota, left_RC[rows])
    kept_n = torch.empty_like(mask_n)
    view, _ = by_output(kept_n, shape, groups)
    view.copy_(kept_RC.view(view.shape))
    return kept_n


def _rows(flat_n: Tensor, shape: Sequence[int], groups: int) -> Tensor:
    """``[output channels, weights of each]``: a view where the weight is stored output first."""
    view, first = by_output(flat_n, shape, groups)
    return view.flatten(0, first).flatten(1)


def best_of_each(scores_RC: Tensor, quota: int, left_RC: Tensor | None = None) -> Tensor:
    """Boolean ``[R, C]``: the ``quota`` highest scores left in every row, of equal ones the later.

    >>> best_of_each(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]), 2).tolist()
    [[False, True, True], [False, True, True]]
    """
    left_RC = torch.ones_like(scores_RC, dtype=torch.bool) if left_RC is None else left_RC
    C = scores_RC.shape[1]
    if quota == 0:
        return torch.zeros_like(left_RC)
    if quota == C:
        return left_RC
    if not left_RC.all():
        scores_RC = scores_RC.masked_fill(~left_RC, -torch.inf)
    if scores_RC.dtype in (torch.float32, torch.float64):
        found = np.partition(scores_RC.numpy(), C - quota, axis=1)[:, C - quota]
        least_R1 = torch.from_numpy(found)[:, None]  # the lowest score that is kept
    else:
        least_R1 = scores_RC.kthvalue(C - quota + 1, dim=1, keepdim=True).values
    kept_RC, ties_RC = scores_RC > least_R1, (scores_RC == least_R1) & left_RC
    missing_R1 = quota - kept_RC.count_nonzero(1)[:, None]
    if int(ties_RC.count_nonzero()) == int(missing_R1.sum()):  # nothing to choose among equals
        return kept_RC | ties_RC
    after_RC = ties_RC.flip(1).cumsum(1).flip(1)  # how many of equal score there are from here on
    return kept_RC | (ties_RC & (after_RC <= missing_R1))


def _pattern(
    mask_N: Tensor, scores_N: Tensor, keep: int, scope: Layout, kind: Pattern, transposed: Mapping[str, int]
) -> Tensor:
    if keep == scope.size:  # the dense target: nothing is asked for
        return mask_N.clone()
    at, name = members(kind, scope, transposed), f"{kind.keep}:{kind.of}"
    if keep * kind.of != scope.size * kind.keep:
        raise PruningError(
            f"granularity {name} keeps {scope.size * kind.keep // kind.of} of {scope.size} weights and no "
            f"other count: got {keep}; ask for sparsity {1 - kind.keep / kind.of:g} and schedule one_shot"
        )
    kept = []
    layers = zip(scope.names, at, mask_N.split(scope.sizes), scores_N.split(scope.sizes), strict=True)
    for layer, at_GM, mask, scores in layers:
        left_GM, scores_GM = mask[at_GM], scores.detach()[at_GM]
        _refuse_nan((scores_GM.isnan() & left_GM).any())
        if bool((left_GM.sum(1) < kind.keep).any()):
            raise PruningError(
                f"{layer}: earlier rounds left fewer than {name} in places; start from a dense mask"
            )
        kept.append(torch.zeros_like(mask))
        kept[-1][at_GM] = kind.best(scores_GM, left_GM)
    return torch.cat(kept)
