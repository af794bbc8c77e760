"""Which rounds of a search lie between one sparsity and the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tombola._utils.errors import UsageError
from tombola.pruning.schedules import parse
from tombola.settings import Settings


@dataclass(frozen=True)
class Segment:
    """The rounds that lead to a sparsity.

    Attributes:
        first: weights kept after the very first round of the search.
        counts: weights kept after each of these rounds.
        done: the number of the first of them.
        after: the sparsity that the search goes on from; None if it begins here.
        sparsity: the one they lead to.
        total: rounds of the whole search.
    """

    first: int
    counts: list[int]
    done: int
    after: float | None
    sparsity: float
    total: int


def segment(settings: Settings, size: int, targets: Sequence[int], sparsity: float) -> Segment:
    """The rounds of a search over ``size`` weights that lead to one of its sparsities.

    Args:
        settings: sparsities, schedule, whether searches are nested, whether the first mask is drawn.
        size: weights in scope.
        targets: weights kept at each sparsity, largest first.
        sparsity: one of the settings' sparsities.

    Raises:
        UsageError: it is none of them.

    >>> segment(Settings((0.5, 0.75), "fraction:0.5"), 100, [50, 25], 0.75)
    Segment(first=50, counts=[25], done=1, after=0.5, sparsity=0.75, total=2)
    """
    sparsities = sorted(settings.sparsity)
    if sparsity not in sparsities:
        raise UsageError(f"no search was asked for at sparsity {sparsity}: there are {sparsities}")
    position = sparsities.index(sparsity)
    if not settings.nested:  # a search of its own
        position, targets = 0, [targets[position]]
    rounds = parse(settings.schedule)(size, targets)
    done = sum(count >= targets[position - 1] for count in rounds) if position else 0
    counts = [count for count in rounds[done:] if count >= targets[position]]
    if settings.first and not position:  # the first round is the one before any training
        done, counts = 1, counts if settings.moving else counts[1:]
    after = sparsities[position - 1] if position else None
    return Segment(rounds[0], counts, done, after, sparsity, len(rounds))
