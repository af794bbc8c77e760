"""Rows: mean and 95% interval over seeds of every metric of every method, from the records of runs."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tombola._utils.errors import RunError
from tombola.lab.experiments import EXPERIMENTS
from tombola.methods.table import METHODS
from tombola.runs.log import full_settings, read_config, read_records, read_timings

Row = dict[
    str, Any
]  # experiment, preset, method, sparsity, reading, metric, ticket, mean, ci95, seeds, items
Unit = tuple[str, int]  # item and seed of one run
# Metrics compared within a seed, with what, and how the difference is called.
LED = ("balanced_accuracy", "auc", "accuracy", "psnr", "psnr_region", "si_snri")
BY_TICKET = ("accuracy", "si_snri")  # metrics of tickets that are judged on their own subsets
REFERENCES = {"imp": "lead", "union_size_imp": "lead_union", "same_mask": "lead_same"}
_STAGE = re.compile(r"(train|judge)-(?P<method>\w+)-(?P<sparsity>\d[\d.]*(e-\d+)?)")


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """The run directories among and below these paths.

    Raises:
        RunError: a path holds none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        runs = [file.parent for file in sorted(path.rglob("config.yaml")) if _is_run(file.parent)]
        if not runs:
            raise RunError(f"{path} is no run and holds none")
        found += runs
    return list(dict.fromkeys(found))


def _is_run(folder: Path) -> bool:
    """Other programs call their files config.yaml too."""
    if not (folder / "records.jsonl").is_file():
        return False
    return {"seed", "settings"} <= set(read_config(folder))


def rows(runs: Sequence[Path]) -> list[Row]:
    """One row per experiment, preset, method, sparsity, reading and metric.

    Means over tickets; where contexts are given and few, also a row per ticket with its name.
    With several items (photographs, a network each) the interval is over items, each the mean over its
    seeds; otherwise over seeds.
    """
    values: dict[tuple, dict[Unit, float]] = defaultdict(dict)
    peers: dict[tuple[str, str], list[tuple[Path, dict]]] = defaultdict(list)
    missed: dict[tuple[str, str], list[tuple[Unit, list[float], list[str]]]] = defaultdict(list)
    for run in runs:
        config = read_config(run)
        head = names_of(run, config)
        _check_peers(run, config, peers[head])
        peers[head].append((run, config))
        unit = config.get("item", ""), config["seed"]
        for record in read_records(run):
            ticket = record.get("ticket", "")
            if record["event"] == "metric" and (
                not ticket or (record["metric"] in BY_TICKET and not unit[0])
            ):
                key = (record["method"], record["sparsity"], record.get("reading", ""), record["metric"])
                values[(*head, *key, ticket)][unit] = record["value"]
            elif record["event"] == "stopped":
                missed[head].append((unit, record["not_reached"], config.get("methods", [])))
        for method, sparsity, minutes in _minutes(run):
            values[(*head, method, sparsity, "", "minutes", "")][unit] = minutes
    values |= _leads(values) | _reached(values, missed)
    order = {name: i for i, name in enumerate(METHODS)}
    ranked = sorted(values.items(), key=lambda item: (item[0][:2], order[item[0][2]], item[0][3]))
    return [_row(key, by_unit) for key, by_unit in ranked]


def _leads(values: Mapping[tuple, Mapping[Unit, float]]) -> dict[tuple, dict[Unit, float]]:
    """What every method is ahead of a single mask at the same sparsity, seed and item.

    Differences within a seed and an item have far narrower intervals than the values themselves.
    """
    leads: dict[tuple, dict[Unit, float]] = {}
    for key, by_unit in values.items():
        *head, method, sparsity, reading, metric, ticket = key
        for reference, suffix in REFERENCES.items() if metric in LED else ():
            single = values.get((*head, reference, sparsity, reading, metric, ticket), {})
            difference = {unit: by_unit[unit] - single[unit] for unit in by_unit if unit in single}
            if method != reference and difference:
                leads[(*head, method, sparsity, reading, f"{metric}_{suffix}", ticket)] = difference
    return leads


def _reached(values: Mapping[tuple, Mapping[Unit, float]], missed: Mapping[tuple, list]) -> dict[tuple, dict]:
    """Whether runs reached a sparsity, 1 or 0, where the alarm for collapse stopped some before it."""
    reached: dict[tuple, dict[Unit, float]] = {}
    for head, runs in missed.items():
        for unit, sparsities, methods in runs:
            of_tickets = [name for name in methods if name in METHODS and METHODS[name].task == "own"]
            for name, sparsity in itertools.product(of_tickets, sparsities):
                row = reached.setdefault((*head, name, sparsity, "", "reached", ""), {})
                judged = values.get((*head, name, sparsity, "", "per_ticket", ""), {})
                row |= {**dict.fromkeys(judged, 1.0), unit: 0.0}
    return reached


def names_of(run: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Experiment and preset; changes of the preset, a stand-in for the data, and tuning join its name.

    A run of a program of the user's own is called by its directory, or by the one above ``seedN``.
    """
    experiment, preset = config.get("experiment"), config.get("preset") or ""
    if not experiment:
        return (run.resolve().parent.name if run.name.startswith("seed") else run.name), preset
    if experiment in EXPERIMENTS and preset in EXPERIMENTS[experiment].presets:
        defaults = _flat(EXPERIMENTS[experiment].presets[preset].settings.plain())
        changes = {k: v for k, v in _flat(config["settings"]).items() if defaults.get(k) != v}
        preset += "".join(f" {name}={value}" for name, value in changes.items())
    if experiment in EXPERIMENTS and config.get("source") is None and EXPERIMENTS[experiment].stand_in:
        preset += f" (on {EXPERIMENTS[experiment].stand_in})"
    return experiment, preset + (" (judged on validation)" if config.get("tune") else "")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    nested = {k: v for k, v in settings.items() if isinstance(v, dict)}
    flat = {f"{part}.{k}": v for part, recipe in nested.items() for k, v in recipe.items()}
    return {k: v for k, v in settings.items() if k not in nested} | flat


def _check_peers(run: Path, config: dict[str, Any], peers: list[tuple[Path, dict]]) -> None:
    """A mean is over seeds: its runs differ in nothing else. A seed may lie in runs of different methods."""
    for other, theirs in peers:
        same = theirs["seed"] == config["seed"] and theirs.get("item") == config.get("item")
        both = [name for name in config.get("methods", [""]) if name in theirs.get("methods", [""])]
        if same and both:
            what = f"both seed {config['seed']}" + (f" of {both[0]}" if both[0] else "")
            raise RunError(f"{other} and {run} are {what}: compare them one by one")
        pairs = [(key, theirs.get(key), config.get(key)) for key in ("augment", "tune", "among")]
        hashed = (
            ("data", "partition", "backbone", "objective") if theirs.get("item") == config.get("item") else ()
        )
        pairs += [(key, theirs[key], config[key]) for key in hashed if key in theirs and key in config]
        for key, one, another in [("settings", full_settings(theirs), full_settings(config)), *pairs]:
            if one != another:
                raise RunError(f"{other} and {run} have different {key}: compare them one by one")


def _minutes(run: Path) -> list[tuple[str, float, float]]:
    """Wall-clock minutes of each outcome: its part of the search, training and judging.

    Methods that share a search all count it. An outcome with an interrupted stage is left out.
    """
    timings = read_timings(run)
    parts: dict[tuple[str, float], list[float | None]] = defaultdict(list)
    for stage, seconds in timings.items():
        if found := _STAGE.match(stage):
            parts[found["method"], float(found["sparsity"])].append(seconds)
    for (name, sparsity), spent in parts.items():
        composed = METHODS[name]
        variant = ("told-" if composed.conditioned else "") + (f"{name}-" if composed.changes else "")
        own = f"{variant}{composed.search}"
        stages = (f"search-{own}-{sparsity}", f"first-{own}-{sparsity}", f"first-{own}")
        spent += [timings[stage] for stage in stages if stage in timings]
    whole = {key: [s for s in seconds if s is not None] for key, seconds in parts.items()}
    return [(*key, sum(whole[key]) / 60) for key in parts if len(whole[key]) == len(parts[key])]


def _row(key: tuple, by_unit: Mapping[Unit, float]) -> Row:
    names = ("experiment", "preset", "method", "sparsity", "reading", "metric", "ticket")
    row: Row = {name: value for name, value in zip(names, key, strict=True) if value != ""}
    by_item: dict[str, list[float]] = defaultdict(list)
    for (item, _), value in by_unit.items():
        by_item[item].append(value)
    items = [float(np.mean(values)) for values in by_item.values()]
    independent = items if len(items) > 1 else list(by_unit.values())
    seeds = len({seed for _, seed in by_unit})
    row |= {"mean": float(np.mean(items)), "ci95": interval(independent), "seeds": seeds}
    return row | ({"items": len(items)} if len(items) > 1 else {})


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of the mean (Student's t); None for one value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    n = len(values)
    if n < 2:
        return None
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
