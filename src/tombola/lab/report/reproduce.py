"""How to run the same again: the commands that made some runs, and all that they were made with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from tombola.lab.experiments import EXPERIMENTS, Preset
from tombola.lab.report.findings import Ran
from tombola.lab.report.rows import flat
from tombola.lab.report.tables import Table
from tombola.runs.log import full_settings

_HASHES = ("theta0", "data", "partition", "backbone", "objective")


def commands(runs: Sequence[Ran]) -> list[str]:
    """Command lines, one per group of runs that differ in seed and item only.

    Empty where the runs were made by a program of the user's own.
    """
    groups: dict[str, list[Ran]] = {}
    for ran in runs:
        if ran.config.get("experiment"):
            groups.setdefault(_without_seed(ran), []).append(ran)
    return [line + _seeds(group) for line, group in groups.items()]


def _without_seed(ran: Ran) -> str:
    config, threads = ran.config, ran.environment.get("threads")
    words = ["tombola", "run", config["experiment"]]
    words += ["--preset", config["preset"]] if config.get("preset") else []
    words += ["--data", str(config["source"])] if config.get("source") else []
    words += ["--method", *config["methods"]] if config.get("methods") else []
    settings = full_settings(dict(config))
    words += ["--sparsity", *(f"{s}" for s in settings.pop("sparsity", []))]
    preset = _preset(ran)
    defaults = flat(preset.settings.plain()) if preset else {}
    changed = {name: value for name, value in flat(settings).items() if defaults.get(name) != value}
    words += ["--set", *(f"{name}={_yaml(value)}" for name, value in changed.items())] if changed else []
    if preset is None or config.get("augment", False) != preset.augment:
        words += ["--augment" if config.get("augment") else "--no-augment"]
    words += ["--tune"] if config.get("tune") else []
    words += ["--threads", str(threads)] if threads else []
    way = ran.environment.get("parallel", "no")
    words += ["--parallel", way] if ran.environment else []
    device = ran.environment.get("device", "cpu")
    words += ["--device", device] if device != "cpu" else []
    return shlex.join(words)


def _seeds(group: Sequence[Ran]) -> str:
    seeds = dict.fromkeys(str(ran.config["seed"]) for ran in group)
    items = dict.fromkeys(ran.config["item"] for ran in group if ran.config.get("item"))
    return shlex.join(["", "--seed", *seeds, *(["--item", *items] if items else [])]).removeprefix("''")


def _yaml(value: Any) -> str:
    """As ``--set`` reads it."""
    written: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return written.removesuffix("\n").removesuffix("\n...").strip()


def _preset(ran: Ran) -> Preset | None:
    known = EXPERIMENTS.get(ran.config.get("experiment") or "")
    return known.presets.get(ran.config.get("preset") or "") if known else None


def settings_table(ran: Ran) -> Table:
    """Every setting, with what the preset says where one differs."""
    config, preset = ran.config, _preset(ran)
    defaults = flat(preset.settings.plain()) if preset else {}
    plain = {k: v for k, v in config.items() if k not in ("settings", "seed", "item", "methods", *_HASHES)}
    body = [[name, _yaml(value), ""] for name, value in plain.items()]
    for name, value in flat(full_settings(dict(config))).items():
        other = _yaml(defaults[name]) if name in defaults and defaults[name] != value else ""
        body.append([name, _yaml(value), other])
    header = ["name", "value", "the preset's, where it differs"]
    shown = 3 if any(line[2] for line in body) else 2
    return Table("Settings", header[:shown], [line[:shown] for line in body])


def runs_table(runs: Sequence[Ran]) -> Table:
    """Where and with which versions each run began, and the hashes that tell it from others."""
    names = list(dict.fromkeys(name for ran in runs for name in ran.environment))
    hashes = [name for name in _HASHES if any(name in ran.config for ran in runs)]
    body = []
    for ran in runs:
        versions = [str(ran.environment.get(name, "not recorded")) for name in names]
        marks = [str(ran.config.get(name, ""))[:12] for name in hashes]
        methods = " ".join(ran.config.get("methods", []))
        body.append([ran.label, methods, *versions, *marks])
    return Table("Runs", ["run", "methods", *(name.replace("_", " ") for name in names), *hashes], body)
