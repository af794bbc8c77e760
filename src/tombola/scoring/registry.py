"""All criteria by name."""

from __future__ import annotations

from dataclasses import replace

from tombola.errors import UsageError, unknown
from tombola.scoring.criterion import Criterion
from tombola.scoring.gamma import gamma
from tombola.scoring.grasp import grasp
from tombola.scoring.magnitude import magnitude
from tombola.scoring.movement import movement
from tombola.scoring.random import random
from tombola.scoring.snip import snip
from tombola.scoring.synflow import synflow
from tombola.scoring.taylor import taylor
from tombola.scoring.wanda import wanda

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


def parse(text: str) -> Criterion:
    """A criterion from its text: its name, or ``NAME:N`` with the number of batches that it reads.

    Raises:
        UsageError: no such criterion (the message lists them), or a number that makes no sense.

    >>> parse("snip").batches, parse("snip:5").batches
    (1, 5)
    """
    name, colon, count = text.partition(":")
    if name not in CRITERIA:
        raise UsageError(unknown("score", name, CRITERIA))
    criterion = CRITERIA[name]
    if not colon:
        return criterion
    if not criterion.batches:
        raise UsageError(f"score {text!r}: {name} reads no batches; write {name}")
    if not count.isdecimal() or int(count) < 1:
        raise UsageError(f"score {text!r} is not understood; write {name} or {name}:N, N batches from 1 on")
    return replace(criterion, batches=int(count))
