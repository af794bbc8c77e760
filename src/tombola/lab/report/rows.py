"""Rows: mean and 95% interval over seeds of every metric of every method, from the records of runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tombola._utils.errors import RunError
from tombola.lab.experiments import EXPERIMENTS
from tombola.methods.table import METHODS
from tombola.objectives.metrics import metric_info
from tombola.runs.log import full_settings, read_config, read_records, read_timings
from tombola.runs.stages import Stage

# experiment, preset, method, sparsity, reading, metric, ticket, mean, ci95, seeds, items
Row = dict[str, Any]
Unit = tuple[str, int]  # item and seed of one run
# What metrics that decide a comparison are compared with, and how the difference is called.
REFERENCES = {"imp": "lead", "union_size_imp": "lead_union", "same_mask": "lead_same"}


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """The run directories among and below these paths; a path without any is a RunError."""
    found: list[Path] = []
    for path in map(Path, paths):
        runs = [file.parent for file in sorted(path.rglob("config.yaml")) if _is_run(file.parent)]
        if not runs:
            raise RunError(f"{path} is no run and holds none")
        found += runs
    return list(dict.fromkeys(found))


def _is_run(folder: Path) -> bool:
    """Other programs call their files config.yaml too."""
    return (folder / "records.jsonl").is_file() and {"seed", "settings"} <= set(read_config(folder))


def rows(runs: Sequence[Path]) -> list[Row]:
    """One row per experiment, preset, method, sparsity, reading and metric.

    Means over tickets; where contexts are given and few, also a row per ticket with its name.
    With several items (photographs, a network each) the interval is over items, each the mean over its
    seeds; otherwise over seeds.
    """
    values: dict[tuple, dict[Unit, float]] = defaultdict(dict)
    peers: dict[tuple[str, str], list[tuple[Path, dict]]] = defaultdict(list)
    for run in runs:
        config = read_config(run)
        head = names_of(run, config)
        _check_peers(run, config, peers[head])
        peers[head].append((run, config))
        item, _ = unit = config.get("item", ""), config["seed"]
        for record in read_records(run):
            if record["event"] != "metric":
                continue
            ticket, metric = record.get("ticket", ""), record["metric"]
            if not ticket or (not item and metric_info(metric).by_subset):
                key = (record["method"], record["sparsity"], record.get("reading", ""), metric, ticket)
                values[*head, *key][unit] = record["value"]
        for method, sparsity, minutes in _minutes(run):
            values[*head, method, sparsity, "", "minutes", ""][unit] = minutes
    values |= _leads(values)
    order = list(METHODS)
    ranked = sorted(values.items(), key=lambda each: (each[0][:2], order.index(each[0][2]), each[0][3]))
    return [_row(key, by_unit) for key, by_unit in ranked]


def _leads(values: Mapping[tuple, Mapping[Unit, float]]) -> dict[tuple, dict[Unit, float]]:
    """What every method is ahead of a single mask at the same sparsity, seed and item.

    Differences within a seed and an item have far narrower intervals than the values themselves.
    """
    leads: dict[tuple, dict[Unit, float]] = {}
    for key, by_unit in values.items():
        *head, method, sparsity, reading, metric, ticket = key
        for reference, suffix in REFERENCES.items() if metric_info(metric).headline else ():
            single = values.get((*head, reference, sparsity, reading, metric, ticket), {})
            if method != reference and (ahead := difference(metric, by_unit, single)):
                leads[*head, method, sparsity, reading, f"{metric}_{suffix}", ticket] = ahead
    return leads


def names_of(run: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Experiment and preset; changes of the preset, a stand-in for the data, and tuning join its name.

    A run of a program of the user's own is called by its directory, or by the one above ``seedN``.
    """
    experiment, preset = config.get("experiment"), config.get("preset") or ""
    if not experiment:
        return (run.resolve().parent.name if run.name.startswith("seed") else run.name), preset
    if experiment in EXPERIMENTS and preset in EXPERIMENTS[experiment].presets:
        defaults = flat(EXPERIMENTS[experiment].presets[preset].settings.plain())
        changes = {k: v for k, v in flat(config["settings"]).items() if defaults.get(k) != v}
        nested_last = sorted(changes, key=lambda name: "." in name)
        preset += "".join(f" {name}={changes[name]}" for name in nested_last)
    if experiment in EXPERIMENTS and config.get("source") is None and EXPERIMENTS[experiment].stand_in:
        preset += f" (on {EXPERIMENTS[experiment].stand_in})"
    return experiment, preset + (" (judged on validation)" if config.get("tune") else "")


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that ``--set`` knows: ``train.lr`` for what is nested.

    >>> flat({"T": 3, "train": {"lr": 0.1, "options": {}}})
    {'T': 3, 'train.lr': 0.1, 'train.options': {}}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, dict) and name in ("search", "train")
        found |= {f"{name}.{inner}": part for inner, part in value.items()} if nested else {name: value}
    return found


def _check_peers(run: Path, config: dict[str, Any], peers: list[tuple[Path, dict]]) -> None:
    """A mean is over seeds: its runs differ in nothing else. A seed may lie in runs of different methods."""
    for other, theirs in peers:
        same_item = theirs.get("item") == config.get("item")
        both = [name for name in config.get("methods", [""]) if name in theirs.get("methods", [""])]
        if same_item and theirs["seed"] == config["seed"] and both:
            what = f"both seed {config['seed']}" + (f" of {both[0]}" if both[0] else "")
            raise RunError(f"{other} and {run} are {what}: compare them one by one")
        pairs: dict[str, tuple[Any, Any]] = {"settings": (full_settings(theirs), full_settings(config))}
        pairs |= {key: (theirs.get(key), config.get(key)) for key in ("augment", "tune", "among")}
        for key in ("data", "partition", "backbone", "objective") if same_item else ():
            if key in theirs and key in config:
                pairs[key] = theirs[key], config[key]
        for key, (one, another) in pairs.items():
            if one != another:
                raise RunError(f"{other} and {run} have different {key}: compare them one by one")


def _minutes(run: Path) -> list[tuple[str, float, float]]:
    """Wall-clock minutes of each outcome: its part of the search, training and judging.

    Methods that share a search all count it. An outcome with an interrupted stage is left out.
    """
    timings = read_timings(run)
    parts: dict[tuple[str, float], list[float | None]] = defaultdict(list)
    for name, seconds in timings.items():
        stage = Stage.parse(name)
        if stage and stage.phase in ("train", "judge") and stage.sparsity is not None:
            parts[stage.method, stage.sparsity].append(seconds)
    for (method, sparsity), spent in parts.items():
        chosen = METHODS[method]
        whose = chosen.search or ""
        search = Stage("first", method if chosen.changes else "", whose, None, "", chosen.conditioned)
        at = replace(search, sparsity=sparsity)
        names = map(str, (replace(at, phase="search"), at, search))
        spent += [timings[name] for name in names if name in timings]
    return [(*key, sum(spent) / 60) for key, spent in parts.items() if None not in spent]  # type: ignore[arg-type]


def _row(key: tuple, by_unit: Mapping[Unit, float]) -> Row:
    names = ("experiment", "preset", "method", "sparsity", "reading", "metric", "ticket")
    row: Row = {name: value for name, value in zip(names, key, strict=True) if value != ""}
    found, items = spread(by_unit), len({item for item, _ in by_unit})
    assert found is not None
    row |= {"mean": found.mean, "ci95": found.ci95, "seeds": len({seed for _, seed in by_unit})}
    return row | ({"items": items} if items > 1 else {})


# -- means and intervals -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A mean, half its 95% interval, and over how many values."""

    mean: float
    ci95: float | None
    count: int

    def mean_and_interval(self, fmt: Callable[[float], str]) -> str:
        """``+.036 (+.018 to +.054)``; the mean alone where there is no interval."""
        if self.ci95 is None:
            return fmt(self.mean)
        return f"{fmt(self.mean)} ({fmt(self.mean - self.ci95)} to {fmt(self.mean + self.ci95)})"


def spread(by_unit: Mapping[Unit, float]) -> Spread | None:
    """Mean and interval: over items, each the mean over its seeds, if there are several; else over seeds."""
    if not by_unit:
        return None
    by_item: dict[str, list[float]] = defaultdict(list)
    for (item, _), value in by_unit.items():
        by_item[item].append(value)
    items = [float(np.mean(values)) for values in by_item.values()]
    independent = items if len(items) > 1 else list(by_unit.values())
    return Spread(float(np.mean(items)), interval(independent), len(independent))


def difference(metric: str, ours: Mapping[Unit, float], theirs: Mapping[Unit, float]) -> dict[Unit, float]:
    """By how much one is ahead of the other, within the items and seeds that both have."""
    ahead = metric_info(metric).ahead
    return {unit: ahead(ours[unit], theirs[unit]) for unit in ours if unit in theirs}


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of the mean (Student's t); None for one value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    n = len(values)
    if n < 2:
        return None
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
