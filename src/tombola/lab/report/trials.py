"""Was the alarm right? Searches that were judged at many sparsities, against the rule that knows nothing.

The trivial rule, to stop at a fixed density, is learnt from the other runs: for each run, the lowest density
that none of the others dropped before.

Shape letters: R judged rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from tombola._utils.errors import RunError
from tombola.lab.analysis.alarmed import alarms
from tombola.lab.analysis.collapse import FALSE_ALARMS, first_alarm, survivors
from tombola.lab.analysis.pace import rises
from tombola.lab.analysis.signals import FLOOR, SIGNALS, charts, signal
from tombola.lab.analysis.verdict import Evaluation, Trial, drop, evaluate, lowest_safe_density, stop_at
from tombola.lab.report.rows import names_of
from tombola.lab.report.tables import Table, heading, share
from tombola.runs.log import full_settings, read_config, read_records

LEAST = 6  # judged rounds that a run needs: with fewer nothing can lead
READING, METRIC, METHOD = "like_for_like", "balanced_accuracy", "rtl"


@dataclass(frozen=True)
class Searched:
    """A run whose search was watched: what was measured in every round, and scores where it was judged."""

    head: tuple[str, str]
    label: str
    history: tuple[Mapping[str, Any], ...]
    score_by_round: Mapping[int, float]

    def trial(self, fired: int | None) -> Trial:
        """Over the judged rounds; an alarm counts from the first of them that is not before it."""
        judged = sorted(self.score_by_round)
        alarm = None if fired is None else next((i for i, r in enumerate(judged) if r >= fired), None)
        density = tuple(float(self.history[r]["density"]) for r in judged)
        return Trial(density, tuple(self.score_by_round[r] for r in judged), alarm)


def finished_search(
    path: Path, metric: str = METRIC, reading: str = READING, method: str = METHOD
) -> Searched | None:
    """What a run has to say; None where it is not finished, not watched, or not judged often enough."""
    config, history, scores = read_config(path), {}, {}
    for row in read_records(path):
        stage = str(row.get("stage", ""))
        if row["event"] == "watch" and stage.startswith("search-own-"):
            history[row["round"]] = row
        asked = (row.get("method"), row.get("metric"), row.get("reading", "")) == (method, metric, reading)
        if row["event"] == "metric" and asked and not row.get("ticket"):
            scores[row["sparsity"]] = row["value"]
    if sorted(history) != list(range(len(history))):
        return None
    rounds = tuple(history[r] for r in range(len(history)))
    by_round = {}
    for sparsity, score in scores.items():
        near = min(range(len(rounds)), key=lambda r: abs(1 - sparsity - rounds[r]["density"]), default=None)
        if near is not None and abs(1 - sparsity - rounds[near]["density"]) < 1e-3:
            by_round[near] = score
    item = config.get("item", "")
    label = f"{item}, seed {config['seed']}" if item else f"seed {config['seed']}"
    found = Searched(names_of(path, config), label, rounds, dict(sorted(by_round.items())))
    stopped = any(alarm.not_reached for alarm in alarms(read_records(path)))
    whole = stopped or set(full_settings(config)["sparsity"]) <= scores.keys()
    return found if len(by_round) >= LEAST and whole else None


# -- rules ------------------------------------------------------------------------------------------------

Rule = Callable[[Searched], tuple[int | None, int | None]]  # to the round it fires in, and the last good one


def rules(false_alarms: float = FALSE_ALARMS) -> dict[str, Rule]:
    """The alarm as it is in use, and each thing that it watches alone, at the same stated rate."""

    def all_of(run: Searched) -> tuple[int | None, int | None]:
        found = first_alarm(_density(run), *charts(run.history, len(run.history), false_alarms))
        return (found.round, found.last_good) if found else (None, None)

    def one(name: str) -> Rule:
        def fires(run: Searched) -> tuple[int | None, int | None]:
            values = signal(run.history, name)
            if not any(map(math.isfinite, values)):
                return None, None
            chart = rises(name, values, len(values), false_alarms)
            return chart.fired, chart.last_good if chart.fired is not None else None

        return fires

    def smallest(run: Searched) -> tuple[int | None, int | None]:
        counts = [int(row["fewest"]) for row in run.history if "fewest" in row]
        chart = survivors(counts, FLOOR) if len(counts) == len(run.history) else None
        return (chart.fired, chart.last_good) if chart and chart.fired is not None else (None, None)

    return {"the alarm": all_of, **{f"{n} alone": one(n) for n in SIGNALS}, "smallest layer alone": smallest}


def _density(run: Searched) -> list[float]:
    return [float(row["density"]) for row in run.history]


@dataclass(frozen=True)
class Judged:
    """A rule over several runs.

    ``leads`` in judged rounds, of the runs that drop and fired; ``removed`` share of weights removed where a
    user ends up, mean over runs; ``lost`` score below the best of the rounds before, there.
    """

    rule: str
    found: Evaluation
    leads: tuple[int, ...]
    removed: float
    lost: float


def judge(runs: Sequence[Searched], points: float = 0.02, false_alarms: float = FALSE_ALARMS) -> list[Judged]:
    """All rules on the same runs; with several runs also the trivial one, whose density the others tell."""
    made = []
    for name, rule in rules(false_alarms).items():
        fired = [rule(run) for run in runs]
        trials = [run.trial(at) for run, (at, _) in zip(runs, fired, strict=True)]
        ends = [_end(run, at, good) for run, (at, good) in zip(runs, fired, strict=True)]
        made.append(_judged(name, trials, ends, points))
    plain = [run.trial(None) for run in runs]
    if len(plain) > 1:
        made.append(_fixed_density(plain, points))
    return [*made, _judged("never stop", plain, [len(trial.density_R) - 1 for trial in plain], points)]


def _fixed_density(plain: Sequence[Trial], points: float) -> Judged:
    """Stop at the lowest density that no other run dropped before."""
    fixed = []
    for i, trial in enumerate(plain):
        density = lowest_safe_density([*plain[:i], *plain[i + 1 :]], points)
        fixed.append(replace(trial, alarm=stop_at(trial.density_R, density)))
    ends = [t.alarm if t.alarm is not None else len(t.density_R) - 1 for t in fixed]
    return _judged("stop at a fixed density", fixed, ends, points)


def _end(run: Searched, fired: int | None, good: int | None) -> int:
    """The judged round that a user is left with: the last that is not after the last good one."""
    judged = sorted(run.score_by_round)
    if fired is None:
        return len(judged) - 1
    return max((i for i, r in enumerate(judged) if good is not None and r <= good), default=0)


def _judged(rule: str, trials: Sequence[Trial], ends: Sequence[int], points: float) -> Judged:
    leads = []
    for trial in trials:
        dropped = drop(trial.score_R, points)
        if dropped is not None and trial.alarm is not None:
            leads.append(dropped - trial.alarm)
    removed = fmean(1 - trial.density_R[end] for trial, end in zip(trials, ends, strict=True))
    pairs = zip(trials, ends, strict=True)
    lost = fmean(max(trial.score_R[: end + 1]) - trial.score_R[end] for trial, end in pairs)
    return Judged(rule, evaluate(trials, points), tuple(leads), removed, lost)


# -- tables -----------------------------------------------------------------------------------------------


def gather(
    paths: Sequence[Path], metric: str, reading: str, method: str
) -> dict[tuple[str, str], list[Searched]]:
    """Runs that can be judged, by experiment and preset.

    Raises:
        RunError: none can.
    """
    groups: dict[tuple[str, str], list[Searched]] = {}
    for path in paths:
        if (run := finished_search(path, metric, reading, method)) is not None:
            groups.setdefault(run.head, []).append(run)
    if not groups:
        raise RunError(
            f"no finished run here was watched and judged by {metric} at {LEAST} sparsities or more: run one "
            f"with --method {method} --sparsity (many) --set stop=warn"
        )
    return groups


def verdicts_table(head: tuple[str, str], made: Sequence[Judged], metric: str, points: float) -> Table:
    """A row per rule."""
    header = ["rule", "runs", "with a drop", "in time", "late", "missed", "false"]
    header += ["lead, rounds", "least to greatest", "removed where it ends", "score lost there"]
    body = []
    for each in made:
        e = each.found
        lead = "" if e.lead is None else f"{e.lead:+.1f}"
        span = f"{min(each.leads):+d} to {max(each.leads):+d}" if each.leads else ""
        counts = (e.runs, e.drops, e.in_time, e.late, e.missed, e.false)
        body.append([each.rule, *map(str, counts), lead, span, f"{each.removed:.1%}", share(each.lost)])
    drop_of = f"a drop of more than {100 * points:g} points of {metric.replace('_', ' ')}"
    alone = "" if made[0].found.runs > 1 else "; a fixed density would be learnt from other runs"
    return Table(f"Each rule against {drop_of}{alone}", header, body, heading(head))


def runs_table(head: tuple[str, str], runs: Sequence[Searched], points: float, false_alarms: float) -> Table:
    """A row per run: where the score drops, and where each rule fires, as shares of weights removed."""
    body = []
    for run in runs:
        trial = run.trial(None)
        dropped = drop(trial.score_R, points)
        line = [run.label, "never" if dropped is None else f"{1 - trial.density_R[dropped]:.1%}"]
        for rule in rules(false_alarms).values():
            fired, _ = rule(run)
            line.append("never" if fired is None else f"{1 - _density(run)[fired]:.1%}")
        body.append(line)
    title = "Share removed at the drop, and where each rule fires"
    return Table(title, ["run", "drop", *rules()], body, heading(head))


def plain(head: tuple[str, str], made: Sequence[Judged], metric: str, points: float) -> list[dict[str, Any]]:
    """For machines: a row per rule."""
    return [
        {"experiment": head[0], "preset": head[1], "metric": metric, "points": points, "rule": each.rule}
        | {**vars(each.found), "leads": list(each.leads), "removed": each.removed, "lost": each.lost}
        for each in made
    ]
