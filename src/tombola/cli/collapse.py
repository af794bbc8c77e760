"""`tombola collapse`: was the alarm right?"""

from __future__ import annotations

from pathlib import Path

from tombola._utils.errors import UsageError
from tombola.cli.options import Flag
from tombola.cli.terminal import runs_of, show
from tombola.lab.analysis.collapse import FALSE_ALARMS, stated_rate
from tombola.lab.report.page import place_of, put_tables
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table
from tombola.lab.report.trials import (
    METHOD,
    METRIC,
    READING,
    gather,
    judge,
    plain,
    runs_table,
    verdicts_table,
)


def collapse(
    *paths: Path,
    metric: str = METRIC,
    reading: str = READING,
    method: str = METHOD,
    points: float = 2.0,
    false_alarms: float = FALSE_ALARMS,
    write: Path | None = None,
    json: Flag = False,
) -> None:
    """Judge the alarm for collapse: does it fire before the score drops, and better than a fixed density?

    It takes runs whose search went far and was judged often, of several seeds:
    tombola run digits --method rtl --seed 0 1 2 --sparsity 0.2 0.36 ... 0.99 --set stop=warn

    Example: tombola collapse runs/digits-quick --write docs/results/collapse.md

    Parameters
    ----------
    paths: Path
        Run directories, or folders that hold some.
    metric: str
        The labelled score.
    reading: str
        Its reading: like_for_like, paper, or empty where there is one.
    method: str
        Whose score.
    points: float
        What counts as a drop, in hundredths, below the best score of the rounds before.
    false_alarms: float
        The stated false-alarm rate of the alarms.
    write: Path
        A Markdown page to put the tables into, with a JSON twin; every experiment has marks of its own.
    json: bool
        Print rows for machines instead of tables.
    """
    if not points > 0:
        raise UsageError(f"--points is what counts as a drop, more than 0: got {points:g}")
    stated_rate(f"warn:{false_alarms}")
    rows: list[Row] = []
    tables: list[Table] = []
    for head, runs in gather(runs_of(paths, "collapse"), metric, reading, method).items():
        made = judge(runs, points / 100, false_alarms)
        words = metric.replace("_", " ") + (f", {reading.replace('_', ' ')}" if reading else "")
        mine = [
            verdicts_table(head, made, words, points / 100),
            runs_table(head, runs, points / 100, false_alarms),
        ]
        judged = plain(head, made, metric, points / 100)
        if write is not None:
            put_tables(write, place_of(head), judged, mine)
        rows, tables = rows + judged, tables + mine
    show(tables, rows, json)
