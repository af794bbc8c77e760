"""Selection: which layers lose how many, and which weights or groups in them.

``global``   the lowest scores wherever they are.
``layer``    every layer keeps the same share of what it has left.
``uniform``  every layer keeps the same share of all its weights. From a dense mask that is ``layer``; after
             a search that has left layers unequal, it makes them equal again as far as it can.
``erk``      Erdős–Rényi-Kernel densities: small layers are kept denser (`tombola.pruning.shares.erk`).
``row``      ``uniform``, and within a layer every output row keeps the same share of its weights
             (`tombola.pruning.rows`; Wanda, arXiv 2306.11695).

Shape letters: N weights in scope, U units (weights or groups) that stay or go as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

from tombola._utils.errors import LayerCollapse, PruningError
from tombola.masks.layout import Layout
from tombola.pruning.granularity import Channel, Granularity, Pattern, Weight, members, parse
from tombola.pruning.rows import best_of_rows
from tombola.pruning.shares import apportion, erk
from tombola.pruning.top import keep_top
from tombola.pruning.units import Units, units

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
        pruned = keep_top(scores_N, keep, mask_N)  # the usual case, without copies
    else:
        layers = units(mask_N, scores_N.detach(), scope, kind, at)
        kept = _units(layers, keep, scope, selection, at, floor)
        pruned = torch.cat([layer.mask(kept_U) for layer, kept_U in zip(layers, kept, strict=True)])
    if not allow_collapse:
        check_collapse(pruned, scope)
    return pruned


def _units(
    layers: Sequence[Units],
    keep: int,
    scope: Layout,
    selection: Selection,
    transposed: Mapping[str, int],
    floor: int,
) -> Sequence[Tensor]:
    """Which units of each layer are kept, boolean ``[U]``: firm ones, by the floor, and the best others."""
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
    parts = zip(layers, quotas, members(Channel(), scope, transposed), strict=True)
    return [best_of_rows(layer.mask_n, layer.scores_U, quota, rows) for layer, quota, rows in parts]


def _across(layers: Sequence[Units], firm: Sequence[Tensor], budget: int) -> Sequence[Tensor]:
    """The best units of all layers together, beside the firm ones."""
    scores = torch.cat([layer.scores_U for layer in layers])
    left = torch.cat([layer.left_U for layer in layers])
    every = Units(scores, left, left)
    return every.more(torch.cat(list(firm)), budget).split([len(layer.left_U) for layer in layers])


def _within(layers: Sequence[Units], firm: Sequence[Tensor], quotas: Sequence[int]) -> list[Tensor]:
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
        if bool((scores_GM.isnan() & left_GM).any()):
            raise PruningError("scores contain NaN: lower the learning rate, or check data and loss")
        if bool((left_GM.sum(1) < kind.keep).any()):
            raise PruningError(
                f"{layer}: earlier rounds left fewer than {name} in places; start from a dense mask"
            )
        kept.append(torch.zeros_like(mask))
        kept[-1][at_GM] = kind.best(scores_GM, left_GM)
    return torch.cat(kept)


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
