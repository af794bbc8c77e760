"""The content of a run directory, for those who read it; `tombola.runs.directory` writes it.

config.yaml         what was asked for; a run goes on only with the same
environment.json    versions, machine, git commit
records.jsonl       one line per measured thing; the same bytes however often it was interrupted
timings.jsonl       seconds per stage; the only file that differs between two equal runs
stages/NAME.safetensors     result of each finished stage
stages/current.safetensors  state of the stage in progress
tickets/NAME.tickets        the ticket files
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tombola._utils.errors import RunError
from tombola._utils.renamed import renewed
from tombola._utils.version import VERSION
from tombola.runs.stages import Stage
from tombola.settings import Settings

# Hashes in the config say nothing to a reader; these do.
_ORIGIN = {
    "theta0": "other initial weights: seed them (torch.manual_seed) before you build the backbone",
    "data": "other data, or another split of them",
    "inputs": "another `prepare`: the same data become other inputs",
    "augmented": "another choice of `augment`",
    "partition": "another partition: other subsets, names or order",
    "backbone": "another architecture of the backbone",
    "among": "another choice of the classes that `Classification` trains among",
    "loss": "another loss of the objective",
}


def read_config(path: Path | str) -> dict[str, Any]:
    """The config of a run directory.

    Raises:
        RunError: it is no run, or the file cannot be read.
    """
    file = Path(path) / "config.yaml"
    if not file.is_file():
        raise RunError(f"{path} is no run: it has no config.yaml{_inside(Path(path))}")
    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{file} cannot be read ({reason}): restore it or delete the run") from None
    if not isinstance(config, dict):
        raise RunError(f"{file} holds no config: restore it or delete the run")
    if isinstance(config.get("settings"), dict):
        config["settings"] = renewed(config["settings"])
    return config


def _inside(path: Path, most: int = 6) -> str:
    """The runs below a folder that is none itself, for whoever meant one of them."""
    files = [file for depth in range(1, 4) for file in path.glob("*/" * depth + "records.jsonl")]
    found = sorted(str(file.parent) for file in files if (file.parent / "config.yaml").is_file())
    more = f", and {len(found) - most} more" if len(found) > most else ""
    return f"; it holds runs, name one of them: {', '.join(found[:most])}{more}" if found else ""


def full_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run; those that are younger than it have their default values."""
    defaults, given = Settings().plain(), config.get("settings") or {}
    nested = {
        name: {**defaults[name], **given[name]}
        for name in ("search", "train")
        if isinstance(given.get(name), dict)
    }
    return {**defaults, **given, **nested}


def difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first setting or origin of a run that differs from what is asked for, in words; None if all agree.

    ``methods`` may grow, and ``source`` is where the data may have moved to: neither makes another run.

    >>> difference({"seed": 0, "methods": ["rtl"]}, {"seed": 1, "methods": ["imp"]})
    'another seed: 0 there, 1 here'
    """
    old, new = ({**config, "settings": full_settings(config)} for config in (old, new))
    for key in dict.fromkeys([*old, *new]):
        if key in ("inputs", "augmented") and key not in old:
            continue  # a run from before they were kept
        if key not in ("methods", "source") and old.get(key) != new.get(key):
            word = "other" if key == "settings" else "another"
            return _ORIGIN.get(key) or f"{word} {key}: {_short(old.get(key), new.get(key))}"
    return None


def _short(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                return f"{key}: {_short(old.get(key), new.get(key))}"
    return f"{old!r} there, {new!r} here"


def read_environment(path: Path | str) -> dict[str, Any]:
    """The environment in which the run began: versions, machine, threads; empty if that is lost."""
    try:
        found: dict[str, Any] = json.loads((Path(path) / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
    return renewed(found, quiet=True)


def read_records(path: Path | str) -> Iterator[dict[str, Any]]:
    """The records of a run, one by one, each with the fields of its stage (`tombola.runs.stages`)."""
    fields: dict[str, dict[str, Any]] = {}
    with (Path(path) / "records.jsonl").open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                if line.endswith(b"\n"):  # a torn last line is a run in progress
                    raise RunError(f"{path}/records.jsonl, line {number}, is damaged") from None
                return
            name = row.get("stage", "")
            if name not in fields:  # older runs wrote the name alone
                stage = Stage.parse(name)
                fields[name] = stage.fields() if stage else {}
            yield {**fields[name], **row}


def read_timings(path: Path | str) -> dict[str, float | None]:
    """Seconds of each stage; None for one that was interrupted and went on from a saved state."""
    file, found = Path(path) / "timings.jsonl", {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
            found[row["stage"]] = row["seconds"] if row["from_start"] else None
        except (ValueError, KeyError):
            continue  # torn when its process was killed; the stage was timed again
    return found


def environment() -> dict[str, Any]:
    """The environment that a result may depend on besides its config: versions, machine, commit."""
    return {
        "python": platform.python_version(),
        "tombola": VERSION,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": _commit(),
    }


def processor() -> str:
    """Name, family and model of the processor, where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    model = f", family {fields['cpu family']} model {fields['model']}" if "model" in fields else ""
    return fields["model name"] + model


def _commit() -> str:
    """The commit of Tombola's own checkout; empty where it is an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
