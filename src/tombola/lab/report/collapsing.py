"""The chapter on collapse: what the alarm watched, when it was raised, and whether it was right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tombola.lab.analysis.signals import SIGNALS, charts, signal
from tombola.lab.analysis.verdict import drop
from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.figures import Axis, Figure, Series, Style, percent, xy
from tombola.lab.report.findings import Findings
from tombola.lab.report.rows import Unit
from tombola.lab.report.tables import share
from tombola.lab.report.trials import METRIC, READING, finished_search, judge, verdicts_table

_NAMES = {
    "kappa": "likeness: kappa across tickets",
    "specialisation": "specialisation: kappa of a twin less kappa across",
    "drift": "drift: how far outputs moved since the round before",
}
_WATCHED = (
    "After every round of the search the alarm looks at what needs no label: how alike the tickets are, how "
    "many weights the smallest layer keeps and, with a rule set (stop), specialisation and the drift of "
    "outputs. Each is compared with its own pace so far. It is a warning, no proof: docs/results/collapse.md "
    "says how often it was right."
)


def chapter(found: Findings) -> list[Block]:
    """Nothing where no search was watched (runs that are older than the alarm)."""
    raised = [(unit, alarm) for unit, alarms in found.alarms.items() for alarm in alarms]
    if not found.watched and not raised:
        return []
    said = [f"{_label(unit)}: {alarm.words}." for unit, alarm in raised]
    if not said:
        said = [f"No alarm in {len(found.watched)} watched {'run' if len(found.watched) == 1 else 'runs'}."]
    blocks: list[Block] = [Words([_WATCHED]), Words(said, lead=True)]
    charts = [chart for name in _NAMES if (chart := _measured(found.watched, name)) is not None]
    charts += [chart for chart in [_statistic(found.watched)] if chart is not None]
    return [*blocks, *([Figures(charts)] if charts else []), *_judged(found)]


def _label(unit: Unit) -> str:
    item, seed = unit
    return f"{item}, seed {seed}" if item else f"seed {seed}"


def _measured(watched: Mapping[Unit, Sequence[Mapping]], name: str) -> Figure | None:
    series = []
    for i, (unit, history) in enumerate(watched.items()):
        points = [(1 - row["density"], row[name], None) for row in history if row.get(name) is not None]
        style = Style(i, faint=len(watched) > 6)
        series.append(Series(_label(unit), style, points, marked=len(watched) <= 6 and len(points) <= 30))
    if not any(len(each.points) > 1 for each in series):
        return None
    return xy(_NAMES[name], series, Axis("share of weights removed", percent), Axis(name, share), 250.0)


def _statistic(watched: Mapping[Unit, Sequence[Mapping]]) -> Figure | None:
    """The CUSUM of each signal as a share of its threshold, of the first run; 1 is the alarm."""
    unit, history = next(iter(watched.items()), (("", 0), []))
    removed = [1 - row["density"] for row in history]
    made = charts(history, len(history))
    series = []
    for i, name in enumerate(SIGNALS):
        chart = next((w for w in made if w.name == name and math.isfinite(w.limit)), None)
        if chart is not None and any(map(math.isfinite, signal(history, name))):
            points = [(x, value / chart.limit, None) for x, value in zip(removed, chart.value_R, strict=True)]
            series.append(Series(name, Style(i), points, marked=len(points) <= 30))
    if not series:
        return None
    level = [(removed[0], 1.0, None), (removed[-1], 1.0, None)]
    series.append(Series("alarm", Style(3, hollow=True, dotted=True), level, marked=False))
    title = f"How near the alarm was, {_label(unit)}"
    x = Axis("share of weights removed", percent)
    return xy(title, series, x, Axis("share of the threshold", lambda v: f"{v:.1f}"), 250.0)


def _judged(found: Findings) -> list[Block]:
    """Against labels, where several runs were judged often enough."""
    runs = [run for ran in found.runs if (run := finished_search(ran.path)) is not None]
    if len(runs) < 2 or len({run.label for run in runs}) < len(runs):
        return []
    table = verdicts_table(found.head, judge(runs), METRIC.replace("_", " "), 0.02)
    drops = sum(drop(run.trial(None).score_R) is not None for run in runs)
    words = f"Judged by {METRIC.replace('_', ' ')} ({READING.replace('_', ' ')}), which drops in {drops} of "
    return [Words([f"{words}{len(runs)} runs."]), Tabled(table, folded=False)]
