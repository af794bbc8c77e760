"""All criteria by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tombola._utils import spec
from tombola._utils.errors import UsageError
from tombola.pruning.scores.criterion import Criterion
from tombola.pruning.scores.gamma import gamma
from tombola.pruning.scores.grasp import grasp
from tombola.pruning.scores.simple import magnitude, movement, random, snip, taylor
from tombola.pruning.scores.synflow import synflow
from tombola.pruning.scores.wanda import wanda

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("magnitude", magnitude, zeros=True),
        Criterion("random", random, zeros=True),
        Criterion("snip", snip, batches=1),
        Criterion("grasp", grasp, batches=1),
        Criterion("synflow", synflow),
        Criterion("taylor", taylor, batches=1),
        Criterion("movement", movement, trajectory=True),
        Criterion("wanda", wanda, batches=1),
        Criterion("gamma", gamma),
    )
}


def register(
    name: str, *, batches: int = 0, trajectory: bool = False, zeros: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Give a function from `PruningContext` to scores ``[N]`` (low = prune first) a name for settings.

    The other arguments are those of `Criterion`. A run in a directory keeps the name alone: register it again
    before the run goes on. The same function of the same module, defined anew, takes the place of the former
    one, as in a notebook cell that is run again.

    Raises:
        UsageError: the name is taken, or could not be told from ``NAME:N``.

    >>> @register("distance")
    ... def distance(context):
    ...     return (context.weights_N - context.start_N).abs()
    >>> parse("distance").name
    'distance'
    >>> CRITERIA.pop("distance").batches
    0
    """
    if not name or set(":[{") & set(name):
        raise UsageError(f"a score cannot be named {name!r}: use a word without ':'")

    def keep(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
        former = CRITERIA.get(name)
        if former is not None and _place(former.score) != _place(score):
            raise UsageError(f"there is a score {name!r} already: give yours another name")
        CRITERIA[name] = Criterion(name, score, batches, trajectory, zeros)
        return score

    return keep


def _place(function: object) -> tuple[str, str]:
    """Where a function is defined: the same for one that is defined anew."""
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", repr(function))


def parse(score: str | spec.Spec) -> Criterion:
    """A criterion from its text, or itself: its name, or ``NAME:N`` with the number of batches that it reads.

    Raises:
        UsageError: no such criterion (the message lists them), or a number that makes no sense.

    >>> parse("snip").batches, parse("snip:5").batches, str(parse("snip:5"))
    (1, 5, 'snip:5')
    """
    return spec.parse(score, CRITERIA.values(), "score")
