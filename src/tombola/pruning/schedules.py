"""The schedule: how many weights each ticket keeps after each round.

A schedule turns the number of weights and the counts to land on into a plain tuple of counts, largest
first. Every target is one of them: the round that would overshoot it is cut to land on it exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
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
        raise UsageError(f"sparsity is the share of weights removed, in [0, 1): got {sparsity}")


def targets(size: int, counts: Sequence[int]) -> tuple[int, ...]:
    """The target counts, largest first, without repeats."""
    wrong = [count for count in counts if not 0 < count <= size]
    if wrong or not counts:
        raise UsageError(f"a schedule over {size} weights needs targets between 1 and {size}: got {counts}")
    return tuple(sorted(set(counts), reverse=True))


@dataclass(frozen=True)
class Schedule(spec.Spec):
    """Base of the schedules: from N weights and target counts to the counts after each round."""

    def __call__(self, size: int, counts: Sequence[int]) -> tuple[int, ...]:
        """Counts after each round, the targets among them, largest first."""
        last = targets(size, counts)[-1]
        return targets(size, [*counts, *(count for count in self._between(size, last) if count > last)])

    def _between(self, size: int, last: int) -> Iterable[int]:  # noqa: ARG002
        """Counts on the way to the last target, whatever the others are."""
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

    def _between(self, size: int, last: int) -> Iterable[int]:  # noqa: ARG002
        return [kept(size, sparsity) for sparsity in self.sparsities]


class _StepByStep(Schedule):
    """What is removed next depends on what is left alone, so a target on the way moves what comes after."""

    @abstractmethod
    def _removed(self, left: int) -> int: ...

    def __call__(self, size: int, counts: Sequence[int]) -> tuple[int, ...]:
        """Counts after each round, the targets among them, largest first."""
        found, left = [], size
        for target in targets(size, counts):
            if target == size:
                found.append(size)  # the dense target: a round that removes nothing
            while left > target:
                left = max(target, left - self._removed(left))
                found.append(left)
        return tuple(found)


@dataclass(frozen=True)
class Fraction(_StepByStep):
    """Each round removes the fraction ``p`` of the weights that are left (Algorithm 1).

    >>> Fraction(0.5)(100, [20])
    (50, 25, 20)
    """

    form = "fraction:{p}"
    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise UsageError(f"the pruned fraction p must lie in (0, 1): got {self.p}")

    def _removed(self, left: int) -> int:
        return max(1, round(self.p * left))


@dataclass(frozen=True)
class FixedCount(_StepByStep):
    """Each round removes ``n`` weights (4,096 in the paper).

    >>> FixedCount(30)(100, [50, 25])
    (70, 50, 25)
    """

    form = "fixed_count:{n}"
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"the number of weights removed per round must be at least 1: got {self.n}")

    def _removed(self, left: int) -> int:  # noqa: ARG002
        return self.n


@dataclass(frozen=True)
class _Course(Schedule):
    """A course in n rounds, the last target in the last; a target on the way gets a round of its own."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"the number of rounds must be at least 1: got {self.n}")

    @abstractmethod
    def _left(self, size: int, last: int, t: float) -> float: ...

    def _between(self, size: int, last: int) -> Iterable[int]:
        counts = (round(self._left(size, last, t / self.n)) for t in range(1, self.n))
        return [count for count in counts if count < size]  # no round that removes nothing


@dataclass(frozen=True)
class Cubic(_Course):
    """``s_t = s_f + (s_i − s_f)(1 − t/n)³``, t = 1..n: fast, then slower (Zhu & Gupta, arXiv 1710.01878).

    ``s_i = 0``; ``s_f`` is the last target.

    >>> Cubic(4)(1000, [200])
    (538, 300, 212, 200)
    """

    form = "cubic:{n}"

    def _left(self, size: int, last: int, t: float) -> float:
        return last + (size - last) * (1 - t) ** 3


@dataclass(frozen=True)
class Geometric(_Course):
    """n rounds that each keep the same share: ``d_t = d_f^(t/n)`` (SynFlow, arXiv 2006.05467).

    It is `Fraction` with the p that reaches the last target ``d_f`` in round n.

    >>> Geometric(3)(1000, [125])
    (500, 250, 125)
    """

    form = "geometric:{n}"

    def _left(self, size: int, last: int, t: float) -> float:
        return size * (last / size) ** t


# The same as functions.
one_shot, fraction, fixed_count, cubic, geometric = OneShot, Fraction, FixedCount, Cubic, Geometric


def explicit(*sparsities: float) -> Explicit:
    """`Explicit` from single numbers."""
    return Explicit(sparsities)


SCHEDULES: tuple[type[Schedule], ...] = (OneShot, Fraction, FixedCount, Cubic, Geometric, Explicit)


def parse(schedule: str | spec.Spec) -> Schedule:
    """A schedule from its text, or itself.

    ``one_shot``, ``fraction:P``, ``fixed_count:N``, ``cubic:N``, ``geometric:N`` or ``explicit:S1,S2,...``.

    >>> parse("fixed_count:30"), str(Explicit((0.1, 0.4)))
    (FixedCount(n=30), 'explicit:0.1,0.4')
    """
    return spec.parse(schedule, SCHEDULES, "schedule")
