"""Carry out methods of an experiment in a run directory, or go on with one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tombola.data import Data
from tombola.errors import RunError
from tombola.experiments import Experiment, experiment
from tombola.journal import Journal
from tombola.methods import METHODS, method
from tombola.outcome import carry_out, is_done, levels
from tombola.pipeline import Pipeline
from tombola.randomness import generator
from tombola.runs import Progress, Run, read_config, read_records
from tombola.settings import Settings


@dataclass(frozen=True)
class Order:
    """What is to be run: an experiment with a preset, changes to it, methods, and where."""

    experiment: Experiment
    preset: str
    settings: Settings
    augment: bool
    source: str | None
    tune: bool = False
    methods: Sequence[str] = field(default_factory=lambda: list(METHODS))

    def __post_init__(self) -> None:
        for name in self.methods:
            method(name)

    def load(self) -> Data:
        """The data, decoded once for all seeds; without its test split if this is for tuning."""
        data = self.experiment.load(self.source, self.augment)
        return data.tuning() if self.tune else data

    def run(self, data: Data, seed: int, path: Path, progress: Progress | None = None) -> Iterator[str]:
        """Carry out what is not done yet; yields a word for each outcome."""
        theta0 = self.experiment.backbone(generator(seed, "theta0"))
        partition = self.experiment.partition(data)
        pipeline = Pipeline(
            theta0, self.experiment.objective, data, partition, self.settings, seed, Journal()
        )
        config: dict[str, Any] = {
            "experiment": self.experiment.name,
            "preset": self.preset,
            "seed": seed,
            "source": self.source,  # "data" is the hash of what was found there
            "augment": self.augment,
            "tune": self.tune,
            "settings": self.settings.plain(),
            **pipeline.origin,
            "methods": list(self.methods),
        }
        with Run(path, config, progress) as run:
            pipeline.journal = run
            for name in run.config["methods"]:
                for sparsity in levels(pipeline, name):
                    if is_done(pipeline, name, sparsity):
                        yield f"{name} at {sparsity:.0%}: done before"
                        continue
                    outcome = carry_out(pipeline, name, sparsity)
                    samples = {m.name: m.value for m in outcome.metrics if m.name.startswith("samples")}
                    yield (
                        f"{name} at {sparsity:.0%}: {samples['samples_search']:,.0f} samples in search, "
                        f"{samples['samples_train']:,.0f} in training"
                    )
            yield _budgets(path)


def _budgets(path: Path) -> str:
    """Whether all methods of a run were trained on the same number of samples."""
    counts = {
        (row["method"], row["sparsity"]): row["value"]
        for row in read_records(path)
        if row.get("metric") == "samples_train"
    }
    if len(set(counts.values())) == 1:
        return f"equal budgets: every outcome was trained on {next(iter(counts.values())):,.0f} samples"
    return f"unequal budgets: samples in training differ: {counts}"


def order_of(path: Path) -> tuple[Order, int]:
    """The order and the seed of a run directory.

    Raises:
        RunError: it is no run, or was made by a program of the user's own.
    """
    config = read_config(path)
    if not config.get("experiment"):
        raise RunError(f"{path} was made by a program of your own: run that again, it goes on by itself")
    try:
        order = Order(
            experiment=experiment(config["experiment"]),
            preset=config["preset"],
            settings=Settings.from_plain(config["settings"]),
            augment=config["augment"],
            source=config["source"],
            tune=config["tune"],
            methods=config["methods"],
        )
        return order, config["seed"]
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}/config.yaml was altered, or is of another version ({error!r})") from None
