"""The settings of runs, and the command lines that make them again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tombola.lab.experiments import EXPERIMENTS, Preset
from tombola.lab.report.blocks import Block, Commands, Tabled, Words
from tombola.lab.report.findings import Findings, Ran
from tombola.lab.report.tables import Table
from tombola.lab.results import flat
from tombola.runs.log import full_settings

_HASHES = ("theta0", "data", "partition", "backbone", "objective")


def configuration(found: Findings) -> list[Block]:
    """How to make these runs again, and all that they were made with."""
    lines = commands(found.runs)
    own = Words(["Made by a program of your own: run that again."])
    again: Block = Commands("To run it again:", lines) if lines else own
    return [again, Tabled(_settings(found.runs[0]), words=True), Tabled(_runs(found.runs), words=True)]


def commands(runs: Sequence[Ran], base: str | None = None) -> list[str]:
    """Command lines, one per group of runs that differ in seed and item only.

    Empty where the runs were made by a program of the user's own.

    Args:
        runs: what was run.
        base: for readers on other machines, to whom no folder of this one says anything: what they know the
            pretrained network by, if there is one; empty for the name of its folder.
    """
    groups: dict[str, list[Ran]] = {}
    for ran in runs:
        if ran.config.get("experiment"):
            groups.setdefault(_without_seed(ran, base), []).append(ran)
    return [line + _seeds(group) for line, group in groups.items()]


def _without_seed(ran: Ran, base: str | None) -> str:
    config, threads = ran.config, ran.environment.get("threads")
    words = ["tombola", "run", config["experiment"], *_options(config.get("pretrained") or {}, base)]
    words += ["--preset", config["preset"]] if config.get("preset") else []
    words += ["--data", str(config["source"]) if base is None else "DATA"] if config.get("source") else []
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


def _options(made_of: Mapping[str, Any], base: str | None) -> list[str]:
    """The options of an experiment that was made of them."""
    found: list[str] = []
    for name, value in made_of.items():
        if name != "labels" and value not in ("", False):
            if base is not None and name in ("model", "tokenizer"):
                value = base or Path(value).name
            found += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


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


def _settings(ran: Ran) -> Table:
    """Every setting, with what the preset says where one differs."""
    preset = _preset(ran)
    defaults = flat(preset.settings.plain()) if preset else {}
    values = {
        k: v for k, v in ran.config.items() if k not in ("settings", "seed", "item", "methods", *_HASHES)
    }
    values |= flat(full_settings(dict(ran.config)))
    others = {name: _yaml(defaults[name]) for name in defaults if defaults[name] != values.get(name)}
    body = [[name, _yaml(value), others.get(name, "")] for name, value in values.items()]
    return Table("Settings", ["name", "value", "the preset's, where it differs"], body)


def _runs(runs: Sequence[Ran]) -> Table:
    """Where and with which versions each run began, and the hashes that tell it from others."""
    facts = []
    for ran in runs:
        hashes = {name: str(ran.config[name])[:12] for name in _HASHES if name in ran.config}
        facts.append({"methods": " ".join(ran.config.get("methods", [])), **ran.environment, **hashes})
    names = dict.fromkeys(name for each in facts for name in each)
    body = [
        [name.replace("_", " "), *(str(each.get(name, "not recorded")) for each in facts)] for name in names
    ]
    return Table("Runs", ["", *(ran.label for ran in runs)], body)
