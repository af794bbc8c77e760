"""Rows: mean and 95% interval over seeds of every metric of every method, from the records of runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tombola._utils.errors import RunError
from tombola._utils.statistics import interval
from tombola.lab.results import Value, names_of, values_of
from tombola.methods.table import METHODS
from tombola.objectives.metrics import metric_info
from tombola.runs.log import full_settings, read_config

KEY = ("experiment", "preset", "method", "sparsity", "reading", "metric", "ticket")
Row = dict[str, Any]  # the key, mean, ci95, seeds, items
Unit = tuple[str, int]  # item and seed of one run
# What metrics that decide a comparison are compared with, and how the difference is called.
REFERENCES = {
    "imp": "lead",
    "union_size_imp": "lead_union",
    "same_mask": "lead_same",
    "union_size_same_mask": "lead_union_same",
    "imp_context": "lead_told",
    "imp_per_subset": "lead_each",
    "low_rank_4": "lead_adapters",
}


def rows(runs: Sequence[Path]) -> list[Row]:
    """One row per experiment, preset, method, sparsity, reading and metric.

    Means over tickets; where contexts are given and few, also a row per ticket with its name.
    With several items (photographs, a network each) the interval is over items, each the mean over its
    seeds; otherwise over seeds.
    """
    found: list[Value] = []
    peers: dict[tuple[str, str], list[tuple[Path, dict]]] = defaultdict(list)
    for run in runs:
        config = read_config(run)
        head = names_of(run, config)
        _check_peers(run, config, peers[head])
        peers[head].append((run, config))
        found += values_of(run, config)
    return averaged(found)


def averaged(found: Iterable[Value]) -> list[Row]:
    """The rows of values of `tombola.lab.results`."""
    values: dict[tuple, dict[Unit, float]] = defaultdict(dict)
    for value in found:
        item, ticket, metric = value["item"], value["ticket"], value["metric"]
        if not ticket or (not item and metric_info(metric).by_subset):
            values[tuple(value[name] for name in KEY)][item, value["seed"]] = value["value"]
    values |= _leads(values)
    order = list(METHODS)
    ranked = sorted(values.items(), key=lambda each: (each[0][:2], order.index(each[0][2]), each[0][3]))
    return [_row(key, by_unit) for key, by_unit in ranked]


OVER_SEEDS = ("mean", "ci95", "seeds", "values")


def over_seeds(head: Row, values: Mapping[str, float]) -> Row:
    """A row with mean and interval of values by seed, which it keeps, so that other seeds can join them.

    >>> over_seeds({"metric": "auc"}, {"1": 0.5, "0": 0.5})
    {'metric': 'auc', 'mean': 0.5, 'ci95': 0.0, 'seeds': 2, 'values': {'0': 0.5, '1': 0.5}}
    """
    each = {seed: values[seed] for seed in sorted(values, key=int)}
    found = {"mean": float(np.mean([*each.values()])), "ci95": interval([*each.values()])}
    return head | found | {"seeds": len(each), "values": each}


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


def _check_peers(run: Path, config: dict[str, Any], peers: list[tuple[Path, dict]]) -> None:
    """A mean is over seeds: its runs differ in nothing else. A seed may lie in runs of different methods."""
    for other, theirs in peers:
        same_item = theirs.get("item") == config.get("item")
        both = [name for name in config.get("methods", [""]) if name in theirs.get("methods", [""])]
        if same_item and theirs["seed"] == config["seed"] and both:
            what = f"both seed {config['seed']}" + (f" of {both[0]}" if both[0] else "")
            raise RunError(f"{other} and {run} are {what}: compare them one by one")
        pairs: dict[str, tuple[Any, Any]] = {"settings": (full_settings(theirs), full_settings(config))}
        pairs |= {key: (theirs.get(key), config.get(key)) for key in ("augment", "tune", "among", "loss")}
        for key in ("data", "partition", "backbone", "objective") if same_item else ():
            if key in theirs and key in config:
                pairs[key] = theirs[key], config[key]
        for key, (one, another) in pairs.items():
            if one != another:
                raise RunError(f"{other} and {run} have different {key}: compare them one by one")


def _row(key: tuple, by_unit: Mapping[Unit, float]) -> Row:
    row: Row = {name: value for name, value in zip(KEY, key, strict=True) if value != ""}
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
