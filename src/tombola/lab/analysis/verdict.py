"""Was the alarm right? Alarms against labelled scores, beside the rule that knows nothing.

The trivial rule is to stop pruning at a fixed density. It fires in every run that gets there, so an alarm
has to beat it by firing late where the score holds, and early where it does not.

Shape letters: R rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tombola._utils.errors import UsageError


@dataclass(frozen=True)
class Trial:
    """One run: density and labelled score (a fraction, higher = better) after each round, and the alarm.

    ``alarm`` is the round of `tombola.lab.analysis.collapse.Alarm`, None if there was none.
    """

    density_R: tuple[float, ...]
    score_R: tuple[float, ...]
    alarm: int | None

    def __post_init__(self) -> None:
        R = len(self.density_R)
        if not R or len(self.score_R) != R or (self.alarm is not None and not 0 <= self.alarm < R):
            raise UsageError(
                f"a trial needs a density and a score for every round and an alarm in one of them: got {R} "
                f"densities, {len(self.score_R)} scores, alarm {self.alarm}"
            )


@dataclass(frozen=True)
class Evaluation:
    """How a rule did over several runs; ``lead`` in rounds, positive where it fired before the drop."""

    runs: int
    drops: int  # runs in which the score drops
    in_time: int  # fired before the drop or in its round
    late: int  # fired after it
    missed: int  # a drop, and never fired
    false: int  # fired, and no drop in all of the run
    lead: float | None  # mean over runs that drop and fired

    @property
    def false_rate(self) -> float | None:
        """False alarms per run without a drop; None if there is no such run."""
        quiet = self.runs - self.drops
        return self.false / quiet if quiet else None


def drop(score_R: Sequence[float], points: float = 0.02) -> int | None:
    """The first round whose score is more than ``points`` below the best score before it, or None.

    A millionth of a point is taken for rounding. Noise of a score counts as a drop if it is larger than
    ``points``: average over seeds or tickets first.

    >>> drop([0.80, 0.82, 0.81, 0.79]), drop([0.80, 0.78])
    (3, None)
    """
    best = float("-inf")
    for t, score in enumerate(score_R):
        if score < best - points - 1e-8:
            return t
        best = max(best, score)
    return None


def stop_at(density_R: Sequence[float], density: float) -> int | None:
    """The trivial rule: the first round at this density or below, or None.

    >>> stop_at([0.8, 0.5, 0.25], 0.5)
    1
    """
    return next((t for t, now in enumerate(density_R) if now <= density), None)


def lowest_safe_density(trials: Sequence[Trial], points: float = 0.02) -> float:
    """The density that the trivial rule should stop at, had it known the scores of these runs.

    The lowest that was reached before the drop in all of them. It is fair only if they are not the runs
    that the rule is then judged on.

    >>> lowest_safe_density([Trial((0.8, 0.5, 0.2), (0.9, 0.9, 0.7), None), Trial((0.8, 0.4), (1, 1), None)])
    0.5
    """
    if not trials:
        raise UsageError("the density to stop at is learnt from other runs: give at least one")
    drops = [drop(trial.score_R, points) for trial in trials]
    return max(t.density_R[-1 if d is None else d - 1] for t, d in zip(trials, drops, strict=True))


def evaluate(trials: Sequence[Trial], points: float = 0.02) -> Evaluation:
    """The alarms of these runs against drops of more than ``points``.

    >>> evaluate([Trial((0.8, 0.5, 0.2), (0.9, 0.9, 0.7), alarm=1)]).lead
    1.0
    """
    in_time = late = missed = false = drops = 0
    leads = []
    for trial in trials:
        fired = trial.alarm
        dropped = drop(trial.score_R, points)
        drops += dropped is not None
        if dropped is None:
            false += fired is not None
        elif fired is None:
            missed += 1
        else:
            leads.append(dropped - fired)
            in_time += fired <= dropped
            late += fired > dropped
    return Evaluation(len(trials), drops, in_time, late, missed, false, fmean(leads) if leads else None)
