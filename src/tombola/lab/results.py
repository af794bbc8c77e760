"""Results as a data frame: every value that runs or outcomes hold, in a row of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola._utils.errors import RunError, UsageError
from tombola.lab.experiments import EXPERIMENTS
from tombola.methods.result import Outcome
from tombola.methods.table import METHODS
from tombola.objectives.metrics import METRICS, MetricInfo
from tombola.runs.log import read_config, read_environment, read_records, read_timings
from tombola.runs.stages import Stage

if TYPE_CHECKING:
    import pandas as pd

Value = dict[str, Any]  # a row of `results`, without what it says of the environment
Source = Path | str | Outcome | Iterable[Path | str | Outcome]

OF_RUN = ("run", "experiment", "preset", "item", "seed")
OF_VALUE = ("method", "sparsity", "reading", "metric", "ticket", "value")
ENVIRONMENT = ("processor", "threads", "device", "parallel", "torch", "tombola")  # kept by runs


def results(source: Source) -> pd.DataFrame:
    """Values of runs and outcomes as a tidy `pandas.DataFrame`: a row per measured value.

    ``docs/columns.md`` has the columns and the metrics. Nothing is averaged, and runs may be of anything;
    ``ticket`` is empty where a value is of all tickets.

    Args:
        source: a run directory, a folder that holds some (a sweep), an `Outcome` of `tombola.find`, or
            several of these.

    Raises:
        RunError: a path is no run and holds none, or a file of a run is damaged.
        UsageError: something else was given.

    >>> from tombola.methods.result import Outcome
    >>> from tombola.objectives import Metric
    >>> found = [Outcome("imp", s, [], [Metric("accuracy", 1 - s), Metric("union", 9)]) for s in (0.25, 0.5)]
    >>> results(found)[["method", "sparsity", "metric", "value"]]
      method  sparsity    metric  value
    0    imp      0.25  accuracy   0.75
    1    imp      0.25     union   9.00
    2    imp      0.50  accuracy   0.50
    3    imp      0.50     union   9.00
    """
    import pandas as pd  # only here: it takes half a second

    alone = isinstance(source, Path | str | Outcome) or not isinstance(source, Iterable)
    given: list[Any] = [source] if alone else list(source)  # type: ignore[arg-type]
    if strange := [each for each in given if not isinstance(each, Path | str | Outcome)]:
        raise UsageError(f"results are of paths and outcomes: got {type(strange[0]).__name__}")
    rows = [value for each in given if isinstance(each, Outcome) for value in _of_outcome(each)]
    for run in find_runs(each for each in given if not isinstance(each, Outcome)):
        began = read_environment(run)
        known = {name: began.get(name) for name in ENVIRONMENT}
        rows += [{**value, **known} for value in values_of(run)]
    return pd.DataFrame(rows, columns=[*OF_RUN, *OF_VALUE, *ENVIRONMENT])


def _of_outcome(outcome: Outcome) -> Iterator[Value]:
    """The values of an outcome in memory; its seed is in its tickets."""
    seed = outcome.models[0].metadata.get("seed") if outcome.models else None
    head = {"run": "", "experiment": "", "preset": "", "item": "", "seed": seed}
    for m in outcome.metrics:
        key = {"method": outcome.method, "sparsity": outcome.sparsity, "reading": m.reading}
        yield {**head, **key, "metric": m.name, "ticket": m.ticket, "value": m.value}


def values_of(run: Path, config: Mapping[str, Any] | None = None) -> Iterator[Value]:
    """What `results` has of a run: its metrics as recorded, then the minutes of each outcome."""
    config = config or read_config(run)
    experiment, preset = names_of(run, config)
    head = {"run": str(run), "experiment": experiment, "preset": preset}
    head |= {"item": config.get("item", ""), "seed": config["seed"]}
    for record in read_records(run):
        introduce(record, run)
        if record["event"] == "metric":
            yield {**head, **{name: record.get(name, "") for name in OF_VALUE}}
    for (method, sparsity), minutes in _minutes(run).items():
        key = {"method": method, "sparsity": sparsity, "reading": "", "metric": "minutes", "ticket": ""}
        yield {**head, **key, "value": minutes}


def introduce(record: Mapping[str, Any], run: Path) -> None:
    """Take up what a record says of a metric of the user's own; nothing where it says nothing."""
    if record["event"] != "metric_info":
        return
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["info"].items()}
    info = MetricInfo(**fields)
    if METRICS.setdefault(info.name, info).higher_is_better != info.higher_is_better:
        better = "higher" if info.higher_is_better else "lower"
        raise RunError(
            f"{run} says that {better} values of {info.name} are better, others do not: read it alone"
        )


# -- runs and their names ------------------------------------------------------------------------------------


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
    """Other programs call their files config.yaml too; short runs for an advice are no results."""
    if not (folder / "records.jsonl").is_file():
        return False
    config = read_config(folder)
    return {"seed", "settings"} <= set(config) and "advice" not in config


def names_of(run: Path, config: Mapping[str, Any]) -> tuple[str, str]:
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


def _minutes(run: Path) -> dict[tuple[str, float], float]:
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
    return {key: sum(spent) / 60 for key, spent in parts.items() if None not in spent}  # type: ignore[arg-type]
