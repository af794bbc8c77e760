"""The schedule: how many weights each ticket keeps after each round.

A schedule turns the number of weights and the counts to land on into a plain tuple of counts, largest
first. Every target is one of them: the round that would overshoot it is cut to land on it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tombola._utils.errors import UsageError

Schedule = Callable[[int, Sequence[int]], tuple[int, ...]]  # (N, target counts) to counts per round


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


def one_shot() -> Schedule:
    """Straight to each target: one round per target.

    >>> one_shot()(100, [25])
    (25,)
    """
    return targets


def explicit(*sparsities: float) -> Schedule:
    """These sparsities, one per round, and the targets among them.

    >>> explicit(0.1, 0.4)(100, [50])
    (90, 60, 50)
    """

    for sparsity in sparsities:
        _check(sparsity)

    def schedule(size: int, wanted: Sequence[int]) -> tuple[int, ...]:
        last = targets(size, wanted)[-1]
        steps = [kept(size, s) for s in sparsities]
        return targets(size, [*wanted, *(count for count in steps if count > last)])

    return schedule


def fraction(p: float) -> Schedule:
    """Each round removes the fraction ``p`` of the weights that are left (Algorithm 1).

    >>> fraction(0.5)(100, [20])
    (50, 25, 20)
    """
    if not 0 < p < 1:
        raise UsageError(f"the pruned fraction p must lie in (0, 1): got {p}")
    return _until(lambda left: max(1, round(p * left)))


def fixed_count(n: int) -> Schedule:
    """Each round removes ``n`` weights (4,096 in the paper).

    >>> fixed_count(30)(100, [50, 25])
    (70, 50, 25)
    """
    if n < 1:
        raise UsageError(f"the number of weights removed per round must be at least 1: got {n}")
    return _until(lambda _: n)


def cubic(n: int) -> Schedule:
    """``s_t = s_f + (s_i − s_f)(1 − t/n)³``, t = 1..n: fast, then slower (Zhu & Gupta, arXiv 1710.01878).

    ``s_i = 0``; ``s_f`` is the last target, reached in round n. A target on the way gets a round of its own.

    >>> cubic(4)(1000, [200])
    (538, 300, 212, 200)
    """
    return _course(n, lambda size, last, t: last + (size - last) * (1 - t) ** 3)


def geometric(n: int) -> Schedule:
    """n rounds that each keep the same share: ``d_t = d_f^(t/n)`` (SynFlow, arXiv 2006.05467).

    The last target ``d_f`` is reached in round n: `fraction` with the p that fits. A target on the way gets
    a round of its own.

    >>> geometric(3)(1000, [125])
    (500, 250, 125)
    """
    return _course(n, lambda size, last, t: size * (last / size) ** t)


def _course(n: int, left: Callable[[int, int, float], float]) -> Schedule:
    """Counts along a course from all weights to the last target, in n rounds."""
    if n < 1:
        raise UsageError(f"the number of rounds must be at least 1: got {n}")

    def schedule(size: int, wanted: Sequence[int]) -> tuple[int, ...]:
        last = targets(size, wanted)[-1]
        steps = (round(left(size, last, t / n)) for t in range(1, n))
        return targets(size, [*wanted, *(count for count in steps if last < count < size)])

    return schedule


def _until(removed: Callable[[int], int]) -> Schedule:
    def schedule(size: int, wanted: Sequence[int]) -> tuple[int, ...]:
        counts, left = [], size
        for target in targets(size, wanted):
            if target == size:
                counts.append(size)  # the dense target: a round that removes nothing
            while left > target:
                left = max(target, left - removed(left))
                counts.append(left)
        return tuple(counts)

    return schedule


def parse(text: str) -> Schedule:
    """A schedule from its text.

    ``one_shot``, ``fraction:P``, ``fixed_count:N``, ``cubic:N``, ``geometric:N`` or ``explicit:S1,S2,...``.

    >>> parse("fixed_count:30")(100, [50])
    (70, 50)
    """
    name, _, argument = text.partition(":")
    try:
        if name == "one_shot" and not argument:
            return one_shot()
        if name == "fraction":
            return fraction(float(argument))
        if name == "fixed_count":
            return fixed_count(int(argument))
        if name == "cubic":
            return cubic(int(argument))
        if name == "geometric":
            return geometric(int(argument))
        if name == "explicit":
            return explicit(*map(float, argument.split(",")))
    except ValueError:
        pass
    raise UsageError(
        f"schedule {text!r} is not understood; write one_shot, fraction:P, fixed_count:N, cubic:N, "
        "geometric:N or explicit:S1,S2,..."
    )
