"""The schedule: how many weights each ticket keeps after each round.

A schedule turns the number of weights and the counts to land on into a plain tuple of counts, largest
first. Every target is one of them: the round that would overshoot it is cut to land on it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tombola._utils import spec
from tombola._utils.errors import UsageError


def kept(size: int, sparsity: float) -> int:
    """Weights kept of ``size`` at ``sparsity``: ``size − round(sparsity · size)``.

    >>> kept(125_832, 0.25)
    94374
    """
    _check(sparsity)
    return size - round(sparsity * size)


def _check(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        hint = f"; {sparsity:g}% is {sparsity / 100:g}" if 1 < sparsity < 100 else ""
        raise UsageError(f"sparsity is the share of weights removed, in [0, 1): got {sparsity}{hint}")


def targets(size: int, counts: Sequence[int]) -> tuple[int, ...]:
    """The target counts, largest first, without repeats."""
    wrong = [count for count in counts if not 0 < count <= size]
    if wrong or not counts:
        raise UsageError(f"a schedule over {size} weights needs targets between 1 and {size}: got {counts}")
    return tuple(sorted(set(counts), reverse=True))


class Schedule(spec.Spec):
    """Base of the schedules: from N weights and target counts to the counts after each round."""

    def __call__(self, size: int, counts: Sequence[int]) -> tuple[int, ...]:
        """Counts after each round, the targets among them, largest first."""
        wanted = targets(size, counts)
        return targets(size, [*wanted, *(n for n in self._rounds(size, wanted) if n > wanted[-1])])

    def _rounds(self, size: int, wanted: Sequence[int]) -> Iterable[int]:  # noqa: ARG002
        return ()


@dataclass(frozen=True)
class OneShot(Schedule):
    """Straight to each target: one round per target.

    >>> OneShot()(100, [25])
    (25,)
    """

    form = "one_shot"


@dataclass(frozen=True)
class Explicit(Schedule):
    """These sparsities, one per round, and the targets among them.

    >>> Explicit((0.1, 0.4))(100, [50])
    (90, 60, 50)
    """

    form = "explicit:{sparsities}"
    sparsities: tuple[float, ...]

    def __post_init__(self) -> None:
        for sparsity in self.sparsities:
            _check(sparsity)

    def _rounds(self, size: int, wanted: Sequence[int]) -> Iterable[int]:  # noqa: ARG002
        return (kept(size, sparsity) for sparsity in self.sparsities)


@dataclass(frozen=True)
class Fraction(Schedule):
    """Each round removes the fraction ``p`` of the weights that are left (Algorithm 1).

    >>> Fraction(0.5)(100, [20])
    (50, 25, 20)
    """

    form = "fraction:{p}"
    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise UsageError(f"the pruned fraction p must lie in (0, 1): got {self.p}")

    def _rounds(self, size: int, wanted: Sequence[int]) -> Iterable[int]:
        return _step_by_step(size, wanted, lambda left: max(1, round(self.p * left)))


@dataclass(frozen=True)
class FixedCount(Schedule):
    """Each round removes ``n`` weights (4,096 in the paper).

    >>> FixedCount(30)(100, [50, 25])
    (70, 50, 25)
    """

    form = "fixed_count:{n}"
    n: int

    def __post_init__(self) -> None:
        _at_least_one(self.n, "number of weights removed per round")

    def _rounds(self, size: int, wanted: Sequence[int]) -> Iterable[int]:
        return _step_by_step(size, wanted, lambda _: self.n)


@dataclass(frozen=True)
class Cubic(Schedule):
    """``s_t = s_f + (s_i − s_f)(1 − t/n)³``, t = 1..n: fast, then slower (Zhu & Gupta, arXiv 1710.01878).

    ``s_i = 0``; ``s_f`` is the last target, reached in round n. A target on the way gets a round of its own.

    >>> Cubic(4)(1000, [200])
    (538, 300, 212, 200)
    """

    form = "cubic:{n}"
    n: int

    def __post_init__(self) -> None:
        _at_least_one(self.n, "number of rounds")

    def _rounds(self, size: int, wanted: Sequence[int]) -> Iterable[int]:
        return _course(self.n, size, lambda t: wanted[-1] + (size - wanted[-1]) * (1 - t) ** 3)


@dataclass(frozen=True)
class Geometric(Schedule):
    """n rounds that each keep the same share: ``d_t = d_f^(t/n)`` (SynFlow, arXiv 2006.05467).

    The last target ``d_f`` is reached in round n: `Fraction` with the p that fits. A target on the way gets
    a round of its own.

    >>> Geometric(3)(1000, [125])
    (500, 250, 125)
    """

    form = "geometric:{n}"
    n: int

    def __post_init__(self) -> None:
        _at_least_one(self.n, "number of rounds")

    def _rounds(self, size: int, wanted: Sequence[int]) -> Iterable[int]:
        return _course(self.n, size, lambda t: size * (wanted[-1] / size) ** t)


def _at_least_one(n: int, what: str) -> None:
    if n < 1:
        raise UsageError(f"the {what} must be at least 1: got {n}")


def _step_by_step(size: int, wanted: Sequence[int], removed: Callable[[int], int]) -> Iterator[int]:
    """Counts where a round goes on from what is left, be that a target that cut the last one short."""
    left = size
    for target in wanted:
        while left > target:
            left = max(target, left - removed(left))
            yield left


def _course(n: int, size: int, left: Callable[[float], float]) -> Iterator[int]:
    """Counts along a course in n rounds, but for those that would remove nothing."""
    return (count for t in range(1, n) if (count := round(left(t / n))) < size)


# The same as functions.
one_shot, fraction, fixed_count, cubic, geometric = OneShot, Fraction, FixedCount, Cubic, Geometric


def explicit(*sparsities: float) -> Explicit:
    """These sparsities, one per round, and the targets among them.

    >>> explicit(0.1, 0.4)(100, [50])
    (90, 60, 50)
    """
    return Explicit(sparsities)


SCHEDULES: tuple[type[Schedule], ...] = (OneShot, Fraction, FixedCount, Cubic, Geometric, Explicit)


def parse(schedule: str | spec.Spec) -> Schedule:
    """A schedule from its text, or itself.

    ``one_shot``, ``fraction:P``, ``fixed_count:N``, ``cubic:N``, ``geometric:N`` or ``explicit:S1,S2,...``.

    >>> parse("fixed_count:30"), str(Explicit((0.1, 0.4)))
    (FixedCount(n=30), 'explicit:0.1,0.4')
    """
    return spec.parse(schedule, SCHEDULES, "schedule")
