"""`tombola collapse`: does the alarm fire before scores drop?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tombola._utils.errors import RunError, UsageError
from tombola.cli.options import Flag, Page
from tombola.cli.terminal import runs_of, show
from tombola.lab.report.page import Place, begin_page, check_page, place_of, put_tables
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, heading
from tombola.lab.results import names_of
from tombola.objectives.metrics import LIKE_FOR_LIKE, metric_info
from tombola.runs.log import read_config, read_records
from tombola.training.callbacks.collapse import cusum, first_alarm


def collapse(
    *paths: Path,
    metric: str = "balanced_accuracy",
    method: str = "rtl",
    points: float = 2.0,
    threshold: float | None = None,
    write: Page = None,
    json: Flag = False,
) -> None:
    """Say when the alarm for collapse fires in the search of the tickets, and when their score drops.

    Example: tombola collapse runs/digits-quick --threshold 0.05

    Args:
        paths: Run directories, or folders that hold some.
        metric: The labelled score, read like for like.
        method: Whose score.
        points: What counts as a drop, in hundredths, below the best score of the sparsities before.
        threshold: Of the CUSUM of the fall of specialisation (1 less kappa); without it only the smallest
            layer alarms.
        write: A Markdown page to put the tables into, with a JSON twin; every experiment has marks of its
            own.
        json: Print rows for machines instead of tables.
    """
    if not points > 0:
        raise UsageError(f"--points is what counts as a drop, more than 0: got {points:g}")
    runs = [_run(path, metric, method, points / 100, threshold) for path in runs_of(paths, "collapse")]
    found = [run for run in runs if run is not None]
    if not found:
        raise RunError("the search of the tickets was watched in none of these runs")
    tables = partial(_tables, f"{metric.replace('_', ' ')} drops by {points:g} points")
    if write is not None:  # a page that lacks one of the places is left as it is
        at: dict[Place, list[Row]] = {}
        for run in found:
            at.setdefault(place_of(_head(run)), []).append(run)
        for place in at:
            check_page(write, place)
        begin_page(write, at)
        for place, rows in at.items():  # with the rows that the twin has for it from before
            put_tables(write, place, rows, partial(tables, at=place))
    show(tables(found), found, json)


def _head(run: Row) -> tuple[str, str]:
    return run["experiment"], run["preset"]


def _tables(drop: str, runs: Sequence[Row], at: Place | None = None) -> list[Table]:
    """A table for each experiment and preset, or for those alone that have this place on a page."""
    title = f"Share removed where {drop}, and at the alarm"
    header, bodies = ["run", "drop", "alarm", "fired", "largest CUSUM"], dict[tuple[str, str], list[Any]]()
    for run in (run for run in runs if at in (None, place_of(_head(run)))):
        shares = ["never" if run[at] is None else f"{run[at]:.1%}" for at in ("drop", "alarm")]
        body = bodies.setdefault(_head(run), [])
        body.append([run["run"], *shares, " and ".join(run["fired"]), f"{run['cusum']:.3f}"])
    return [Table(title, header, body, heading(head)) for head, body in bodies.items()]


def _run(path: Path, metric: str, method: str, points: float, threshold: float | None) -> Row | None:
    """What the records of a run say; None where its search was not watched."""
    config, rounds, scores = read_config(path), {}, {}
    for row in read_records(path):
        asked = (metric, method) == (row.get("metric"), row.get("method")) and not row.get("ticket")
        own = row.get("view") == "own" and not row.get("method") and not row.get("conditioned")
        if row["event"] == "watch" and own:
            rounds[row["round"]] = row
        elif row["event"] == "metric" and asked and row.get("reading") in (None, LIKE_FOR_LIKE):
            scores[row["sparsity"]] = row["value"]
    if not rounds:
        return None
    if not scores:
        raise UsageError(
            f"{path} has no {metric} of {method}, read like for like: see tombola compare --json"
        )
    history, judged = [rounds[r] for r in sorted(rounds)], sorted(scores)
    sign = 1 if metric_info(metric).higher_is_better else -1
    best = itertools.accumulate((sign * scores[s] for s in judged), max)
    after = zip(judged[1:], best, strict=False)
    lower = (s for s, before in after if sign * scores[s] < before - points - 1e-8)  # but for rounding
    drop = next(lower, None)
    alarm = first_alarm(history, threshold)
    experiment, preset = names_of(path, config)
    return {
        "experiment": experiment,
        "preset": preset,
        "run": f"{config.get('item', '')} seed {config['seed']}".strip(),
        "drop": drop,
        "alarm": round(1 - alarm["density"], 6) if alarm else None,
        "fired": alarm["fired"] if alarm else [],
        "cusum": max(cusum(history)),
    }
