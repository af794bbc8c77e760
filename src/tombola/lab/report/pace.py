"""How long some runs will still take, from the seconds of the stages that they have done."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from tombola.lab.report.findings import Arm
from tombola.methods.table import METHODS, dense, random_like

_STAGE = re.compile(r"(?P<phase>search|train|judge)-(?P<name>.+?)-(?P<sparsity>\d[\d.]*(e-\d+)?)(-.+)?")
_PHASES = ("search", "train", "judge")
Kind = tuple[str, float]  # phase, sparsity


@dataclass(frozen=True)
class Todo:
    """A run: the outcomes that it wants and has not judged, and the seconds of its stages.

    A stage of None was done, but not in one go, so that nobody knows how long it takes.
    """

    missing: Sequence[Arm]
    timings: Mapping[str, float | None]


def seconds_left(runs: Iterable[Todo]) -> float | None:
    """Of all that is missing; None where nothing that is needed was ever timed.

    A stage takes as long as those of its phase and sparsity took on average, in any of the runs; else as
    those of its phase. Searches that methods share are counted once per run.
    """
    runs = list(runs)
    known: dict[Kind, list[float]] = defaultdict(list)
    for run in runs:
        for (phase, _, sparsity), seconds in _summed(run.timings).items():
            if seconds is not None:
                known[phase, sparsity].append(seconds)
    left = 0.0
    for run in runs:
        spent = _summed(run.timings)
        for stage in dict.fromkeys(stage for outcome in run.missing for stage in needed(*outcome)):
            alone = stage[0] == "train" and not METHODS[stage[1]].shared  # a network per ticket, one by one
            if stage in spent and not alone:
                continue
            usual = _usual(known, stage[0], stage[2])
            if usual is None:
                return None
            left += max(0.0, usual - (spent.get(stage) or 0.0))
    return left


def needed(method: str, sparsity: float) -> Iterator[tuple[str, str, float]]:
    """Phase, name and sparsity of the stages behind an outcome.

    >>> list(needed("snip", 0.5))
    [('search', 'snip-single', 0.5), ('train', 'snip', 0.5), ('judge', 'snip', 0.5)]
    """
    chosen = METHODS[method]
    if chosen.search and (chosen.masks is None or chosen.masks is random_like):
        network, variant = "told-" * chosen.conditioned, f"{method}-" * bool(chosen.changes)
        if chosen.search == "single_union":
            yield "search", "own", sparsity
        yield "search", f"{network}{variant}{chosen.search}", sparsity
    for phase in _PHASES[1:]:
        yield phase, method, 0.0 if chosen.masks is dense else sparsity


def _usual(known: Mapping[Kind, list[float]], phase: str, sparsity: float) -> float | None:
    alike = known.get((phase, sparsity)) or [s for (p, _), each in known.items() if p == phase for s in each]
    if alike or phase != "judge":
        return mean(alike) if alike else None
    return 0.0  # seconds, beside the minutes of a training


def _summed(timings: Mapping[str, float | None]) -> dict[tuple[str, str, float], float | None]:
    """Seconds by phase, name and sparsity: of networks that are trained one by one, all together."""
    found: dict[tuple[str, str, float], float | None] = {}
    for stage, seconds in timings.items():
        if (named := _STAGE.fullmatch(stage)) is None:
            continue
        key = named["phase"], named["name"], float(named["sparsity"])
        before = found.get(key, 0.0)
        found[key] = None if seconds is None or before is None else before + seconds
    return found
