"""What a model card says of the run that made a ticket file: what was measured beside it, and the command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola._utils import io
from tombola._utils.statistics import interval
from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report.again import commands
from tombola.lab.report.findings import Ran
from tombola.lab.results import names_of, results
from tombola.methods.table import METHODS
from tombola.objectives.metrics import READINGS, MetricInfo, ordered
from tombola.runs.log import read_config, read_environment
from tombola.runs.stages import Stage

if TYPE_CHECKING:
    import pandas as pd

STORED = ("union", "private", "dense_rest")
LEGEND = (
    "Means over runs of other seeds, ± half of the 95% interval. *stored*: numbers of all tickets, without "
    "masks. *control*: there to be compared with."
)
TWO = " In the paper's reading each method is judged in its own way, like for like all are judged alike."


def run_of(file: Path) -> Path | None:
    """The run in whose folder a ticket file is."""
    run = file.resolve().parent.parent
    return run if (run / "config.yaml").is_file() and (run / "records.jsonl").is_file() else None


def figures(file: Path) -> str:
    """The metrics by which methods are compared, of all seeds of the run, in Markdown; empty without a run.

    The method of the file is first; controls are marked.
    """
    run = run_of(file)
    stage = Stage.parse(f"train-{io.read_metadata(file).get('facts', {}).get('label', '')}")
    if run is None or stage is None:
        return ""
    frame = _beside(run)
    frame = frame[(frame.ticket == "") & frame.sparsity.isin([stage.sparsity, 0.0])]
    shown = [*_shown(frame)]
    head = ["method", "removed", *(_heading(info, reading) for reading, info in shown), "stored", "runs"]
    lines = [head, ["---"] * len(head)]
    for name in dict.fromkeys([stage.method, *frame.method]):
        mine = frame[frame.method == name]
        values = [(mine[(mine.metric == info.name) & (mine.reading == r)].value, info) for r, info in shown]
        stored = mine[mine.metric.isin(STORED)].groupby("run").value.sum().mean()
        counts = [f"{stored:,.0f}", str(mine.run.nunique())]
        removed = f"{mine.sparsity.iloc[0]:.4g}"
        lines.append([_named(name, stage.method), removed, *(_cell(*each) for each in values), *counts])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    legend = LEGEND + (TWO if any(reading for reading, _ in shown) else "")
    return f"{_origin(frame, read_config(run))}\n\n{table}\n\n{legend}"


def _origin(frame: pd.DataFrame, config: Mapping[str, Any]) -> str:
    """What was run, on which data."""
    what = " ".join(filter(None, (frame.experiment.iloc[0], frame.preset.iloc[0])))
    of = EXPERIMENTS.get(config.get("experiment") or "")
    known = of is not None and (config.get("source") or not of.stand_in)
    return f"Run: {what}." + (f" Data: {of.data}." if of and known else "")


def command(file: Path, base: str = "") -> str:
    """The commands that make the run again, with all its seeds; empty where a program made it.

    ``base`` is a name of the pretrained network; folders of this machine are not named.
    """
    if (run := run_of(file)) is None:
        return ""
    paths = map(Path, dict.fromkeys(_beside(run).run))
    runs = [Ran(path, read_config(path), read_environment(path), ()) for path in paths]
    return "\n".join(commands(runs, base))


def _beside(run: Path) -> pd.DataFrame:
    """The values of a run and of those of other seeds beside it."""
    frame = results(run.parent if run.name.startswith("seed") else run)
    config = read_config(run)
    experiment, preset = names_of(run, config)
    same = (frame.experiment == experiment) & (frame.preset == preset)
    return frame[same & (frame["item"] == config.get("item", ""))]


def _shown(frame: pd.DataFrame) -> Iterator[tuple[str, MetricInfo]]:
    """The metrics that decide comparisons, by reading."""
    for reading in READINGS:
        for info in ordered(frame[frame.reading == reading].metric):
            if reading in info.headline:
                yield reading, info


def _heading(info: MetricInfo, reading: str) -> str:
    return f"{info.inside}, {READINGS[reading]}" if reading else info.inside


def _cell(values: pd.Series[float], info: MetricInfo) -> str:
    if values.empty:
        return ""
    half = interval([*values]) if info.spread else None
    return info.write(values.mean()) + (f" ± {info.write(half)}" if half is not None else "")


def _named(name: str, ours: str) -> str:
    control = " (control)" if name in METHODS and METHODS[name].control else ""
    return f"**{name}**" if name == ours else f"{name}{control}"
