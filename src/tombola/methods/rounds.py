"""The rounds of a search that lie between one sparsity and the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tombola._utils.errors import UsageError
from tombola.pruning.schedules import parse
from tombola.settings import Settings, TrainConfig


@dataclass(frozen=True)
class Rounds:
    """The rounds of a search that lead to a sparsity.

    Attributes:
        counts: weights kept after each of these rounds.
        done: the number of the first of them.
        after: the sparsity that the search goes on from; None if it begins here.
        first: weights kept after the very first round of the search.
    """

    counts: list[int]
    done: int
    after: float | None
    first: int


def rounds_to(settings: Settings, size: int, targets: Sequence[int], sparsity: float) -> Rounds:
    """The rounds of a search over ``size`` weights that lead to one of its sparsities.

    Args:
        settings: sparsities, schedule, whether searches are nested, whether the first mask is drawn.
        size: weights in scope.
        targets: weights kept at each sparsity, largest first.
        sparsity: one of the settings' sparsities.

    Raises:
        UsageError: it is none of them.

    >>> rounds_to(Settings((0.5, 0.75), "fraction:0.5"), 100, [50, 25], 0.75)
    Rounds(counts=[25], done=1, after=0.5, first=50)
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
    return Rounds(counts, done, sparsities[position - 1] if position else None, rounds[0])


def later(settings: Settings, T: int) -> TrainConfig:
    """The config of the search at the learning rate with which its first round, of T steps, ended."""
    config = settings.search
    return config.tail(config.rate(T - 1, T)) if T else config
