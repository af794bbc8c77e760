"""Numbers of weights that each layer keeps: whole, with an exact sum, by largest remainders."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

from tombola._utils.errors import PruningError
from tombola.masks.layout import Layout


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """Split ``total`` in proportion to ``sizes``, in whole numbers, by largest remainder.

    >>> shares([10, 10, 20], 21)
    [5, 5, 11]
    """
    if not 0 <= total <= sum(sizes):
        raise PruningError(f"cannot keep {total} of {sum(sizes)} weights")
    return apportion(sizes, [0] * len(sizes), sizes, total)


def apportion(weights: Sequence[int], low: Sequence[int], high: Sequence[int], total: int) -> list[int]:
    """Split ``total`` in proportion to ``weights``, each part between its bounds, in whole numbers.

    Part l is ``min(max(e · weights_l, low_l), high_l)`` with the one ``e`` that makes the sum right: a part
    that would exceed its bound stays there, and the rest is rescaled. Largest remainders are rounded up;
    of equal ones the last, as in `shares`. All in exact fractions; ``high`` is 0 where a weight is 0.

    Raises:
        PruningError: the bounds do not allow the total.

    >>> apportion([1, 1, 2], [0, 0, 0], [2, 9, 9], 13)
    [2, 4, 7]
    """
    if not sum(low) <= total <= sum(high):
        raise PruningError(f"cannot keep {total} weights: the layers take {sum(low)} to {sum(high)}")
    layers = list(zip(weights, low, high, strict=True))

    def parts(level: Fraction) -> list[Fraction]:
        return [min(max(level * w, Fraction(lo)), Fraction(hi)) for w, lo, hi in layers]

    def whole_at(level: Fraction) -> Fraction:
        return sum(parts(level), Fraction(0))

    # The sum grows with the level, in straight lines between the levels at which a part meets a bound.
    corners = sorted({Fraction(bound, w) for w, *bounds in layers if w for bound in bounds} | {Fraction(0)})
    level = corners[bisect_right(corners, Fraction(total), key=whole_at) - 1]
    if missing := total - whole_at(level):
        level += missing / sum(w for w, lo, hi in layers if lo <= level * w < hi)
    exact = parts(level)
    whole = [int(part) for part in exact]
    order = sorted(range(len(whole)), key=lambda i: (whole[i] - exact[i], -i))
    for i in order[: total - sum(whole)]:
        whole[i] += 1
    return whole


def erk(scope: Layout) -> list[int]:
    """Weights of Erdős–Rényi-Kernel (Mocanu et al., arXiv 1707.04780; Evci et al., arXiv 1911.11134).

    The density of a layer is proportional to ``(n_in + n_out + k_w + k_h) / (n_in n_out k_w k_h)``: the sum
    of its dimensions over their product. Its count is therefore proportional to the sum alone. Of a
    grouped convolution ``n_in`` is that of one group, as in the shape of its weight.

    >>> erk(Layout(("conv", "linear"), ((8, 4, 3, 3), (10, 8))))
    [18, 18]
    """
    return [sum(shape) for shape in scope.shapes]
