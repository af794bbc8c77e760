"""Rows: mean and 95% interval over seeds of every metric of every method, from the records of runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tombola.errors import RunError
from tombola.methods import METHODS
from tombola.runs import read_config, read_records, read_timings

Row = dict[str, Any]  # experiment, preset, method, sparsity, reading, metric, mean, ci95, seeds


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """The run directories among and below these paths.

    Raises:
        RunError: a path holds none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        runs = [file.parent for file in sorted(path.rglob("config.yaml"))]
        if not runs:
            raise RunError(f"{path} is no run and holds none")
        found += runs
    return list(dict.fromkeys(found))


def rows(runs: Sequence[Path]) -> list[Row]:
    """One row per experiment, preset, method, sparsity, reading and metric; tickets averaged already."""
    values: dict[tuple, dict[Any, float]] = defaultdict(dict)
    for run in runs:
        config = read_config(run)
        head = (config.get("experiment") or run.name, config.get("preset") or "")
        for record in read_records(run):
            if record["event"] == "metric" and "ticket" not in record:
                key = (record["method"], record["sparsity"], record.get("reading", ""), record["metric"])
                values[head + key][config["seed"]] = record["value"]
        for method, sparsity, minutes in _minutes(run):
            values[(*head, method, sparsity, "", "minutes")][config["seed"]] = minutes
    order = {name: i for i, name in enumerate(METHODS)}
    ranked = sorted(values.items(), key=lambda item: (item[0][:2], order[item[0][2]], item[0][3]))
    return [_row(key, list(by_seed.values())) for key, by_seed in ranked]


def _minutes(run: Path) -> list[tuple[str, float, float]]:
    """Wall-clock minutes of training and judging, for outcomes that were not interrupted."""
    totals: dict[tuple[str, float], float] = defaultdict(float)
    timings = read_timings(run)
    for stage, seconds in timings.items():
        kind, _, rest = stage.partition("-")
        if kind in ("train", "judge"):
            method, sparsity = rest.split("-")[:2]
            totals[method, float(sparsity)] += seconds / 60
    return [(method, sparsity, total) for (method, sparsity), total in totals.items()]


def _row(key: tuple, values: Sequence[float]) -> Row:
    names = ("experiment", "preset", "method", "sparsity", "reading", "metric")
    row: Row = {name: value for name, value in zip(names, key, strict=True) if value != ""}
    return {**row, "mean": float(np.mean(values)), "ci95": interval(values), "seeds": len(values)}


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of the mean (Student's t); None for one value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    n = len(values)
    if n < 2:
        return None
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
