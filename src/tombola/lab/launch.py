"""Carry out methods of an experiment in a run directory, or go on with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tombola._utils.device import parse
from tombola._utils.errors import RunError, UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.lab.experiments import Experiment, Finished, experiment
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import is_done, repair, run_method, sparsities_of
from tombola.methods.table import check_fits, fits, method
from tombola.runs.cache import StageCache, opened
from tombola.runs.directory import OnProgress, OnRecord, Run
from tombola.runs.lock import begun_on
from tombola.runs.log import read_config, read_environment, read_records
from tombola.settings import Settings
from tombola.training.callbacks.collapse import alarms
from tombola.training.parallel import Parallel
from tombola.training.parallel.choose import threads

Draw = Callable[[Sequence[Finished], Path], list[Path]]


@dataclass(frozen=True)
class Order:
    """What is to be run: an experiment with a preset, changes to it, methods, and where."""

    experiment: Experiment
    preset: str
    settings: Settings
    augment: bool
    source: str | None
    tune: bool = False
    methods: Sequence[str] = ()
    shared: Path | None = None  # a folder for what runs with other settings need as well
    parallel: Parallel = "auto"  # how the trainings of a round go; a run that exists goes on as it began
    device: str = ""  # where the network is; a run that exists goes on where it began, a new one on the CPU
    threads: int | None = None  # by default as a run began, a new one with those that torch has

    def __post_init__(self) -> None:
        for name in self.methods:
            check_fits(name, self.settings)
        if not self.methods:
            known = [name for name in self.experiment.methods() if fits(name, self.settings)]
            object.__setattr__(self, "methods", known)

    @classmethod
    def of(
        cls,
        name: str | Experiment,
        preset: str | None = None,
        sparsity: tuple[float, ...] = (),
        changes: Iterable[str] = (),
        augment: bool | None = None,
        **options: Any,
    ) -> Order:
        """An order for an experiment, or that of this name; what is left open is as the preset has it.

        >>> order = Order.of("digits", sparsity=(0.9,), changes=["T=7"], source=None)
        >>> order.preset, order.settings.T, order.settings.sparsity
        ('quick', 7, (0.9,))
        """
        chosen = name if isinstance(name, Experiment) else experiment(name)
        preset, defaults = chosen.preset(preset)
        settings = replace(defaults.settings, sparsity=sparsity or defaults.settings.sparsity)
        augment = defaults.augment if augment is None else augment
        return cls(chosen, preset, settings.changed(changes), augment, **options)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Order:
        """The inverse of `plain`; other keys are passed over."""
        own = {name: plain[name] for name in ("preset", "augment", "source", "tune", "methods")}
        own |= {name: plain[name] for name in ("parallel", "device", "threads") if name in plain}
        own["shared"] = Path(plain["shared"]) if plain.get("shared") else None
        of = experiment(plain["experiment"], plain.get("pretrained"))
        return cls(experiment=of, settings=Settings.from_plain(plain["settings"]), **own)

    def folder(self, out: Path) -> Path:
        """Where its runs go: ``OUT/NAME-PRESET``."""
        return out / f"{self.experiment.name.replace(':', '.')}-{self.preset}"

    def plain(self) -> dict[str, Any]:
        """What is to be run, as a run's config holds it; not where and how."""
        of = self.experiment
        made_of = {"pretrained": dict(of.options)} if of.options is not None else {}
        own = {name: getattr(self, name) for name in ("preset", "source", "augment", "tune")}
        settings, methods = self.settings.plain(), list(self.methods)  # "data" is the hash of what was found
        return {"experiment": of.name, **made_of, **own, "settings": settings, "methods": methods}

    def load(self) -> dict[str, Data]:
        """The data by item, decoded once for all seeds; without their test splits if this is for tuning.

        An experiment with one network for all its data has one item, called ``""``.
        """
        loaded = self.experiment.load(self.source, self.augment)
        items = {"": loaded} if isinstance(loaded, Data) else loaded
        return {item: data.tuning() if self.tune else data for item, data in items.items()}

    def pipeline(self, data: Data, seed: int, device: str = "cpu") -> Pipeline:
        """The stages of one seed and item, in memory."""
        of = self.experiment
        theta0, partition = of.backbone(generator(seed, "theta0")).to(parse(device)), of.partition(data)
        return Pipeline(theta0, of.objective, data, partition, self.settings, seed, StageCache())

    def run(
        self,
        data: Data,
        seed: int,
        path: Path,
        progress: OnProgress | None = None,
        item: str = "",
        on_record: OnRecord | None = None,
    ) -> Iterator[str]:
        """Carry out what is not done yet for one item; yields a word for each outcome."""
        device = begun_on(path, self.device)
        pipeline = self.pipeline(data, seed, device)
        for name in self.methods:  # what cannot go together is said before anything is trained
            if method(name).changes:
                method(name).variant(pipeline, name)
            if method(name).conditioned:
                _ = pipeline.with_context  # refused before the run notes down what it could never finish
        config = self.plain() | {"seed": seed, **({"item": item} if item else {}), **pipeline.origin}
        places: dict[str, Any] = {"shared": self.shared, "parallel": self.parallel, "device": device}

        def make() -> StageCache:
            return Run(path, config, progress, on_record=on_record, **places)

        count = self.threads or read_environment(path).get("threads")
        with threads(count), opened(make, config, self.parallel) as run:
            pipeline.cache = run
            yield from run.notes
            for name in run.config["methods"]:
                for sparsity in sparsities_of(pipeline, name):
                    at = f"{name} at {100 * sparsity:.4g}%"  # 99.5% is not 100%
                    if is_done(pipeline, name, sparsity):
                        mended = repair(pipeline, name, sparsity)
                        yield f"{at}: {'ticket file mended' if mended else 'done before'}"
                        continue
                    outcome = run_method(pipeline, name, sparsity)
                    samples = {m.name: m.value for m in outcome.metrics if m.name.startswith("samples")}
                    yield (
                        f"{at}: {samples['samples_search']:,.0f} samples in search, "
                        f"{samples['samples_train']:,.0f} in training"
                    )
            if run.leads:
                yield _budgets(path)
                yield from alarms(read_records(path))


def _budgets(path: Path) -> str:
    """Whether all methods of a run were trained on the same number of samples."""
    rows = [row for row in read_records(path) if row.get("metric") == "samples_train"]
    counts = {(row["method"], row["sparsity"]): row["value"] for row in rows}
    if len(set(counts.values())) > 1:
        return f"unequal budgets: samples in training differ: {counts}"
    return f"equal budgets: every outcome was trained on {next(iter(counts.values())):,.0f} samples"


def order_of(path: Path) -> tuple[Order, int, str]:
    """The order, the seed and the item of a run directory."""
    config = read_config(path)
    if not config.get("experiment"):
        raise RunError(
            f"{path} was made by a program of your own, not by an experiment: this command cannot know its "
            "network. To go on, run that program again; to use its tickets, tombola.load(FILE, backbone)"
        )
    try:
        order = Order.from_plain(config)
        return order, config["seed"], config.get("item", "")
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}/config.yaml was altered, or is of another version ({error!r})") from None


def finished(paths: Sequence[Path]) -> tuple[Draw, list[Finished]]:
    """What draws an experiment's pictures, and its runs with their data."""
    found = {path: order_of(path) for path in paths}
    names = list(dict.fromkeys(order.experiment.name for order, _, _ in found.values()))
    if len(names) > 1:
        raise RunError(f"these are runs of {', '.join(names)}: draw one experiment at a time")
    draw = next(iter(found.values()))[0].experiment.draw
    if draw is None:  # said before its data are read
        raise UsageError(f"{names[0]} has no pictures")
    loaded: dict[tuple[str | None, bool, bool], dict[str, Data]] = {}
    runs = []
    for path, (order, seed, item) in found.items():
        key = order.source, order.augment, order.tune
        if key not in loaded:
            loaded[key] = order.load()
        if item not in loaded[key]:
            raise RunError(f"{path} is of {item!r}, which is no longer in {order.source or 'its data'}")
        runs.append(Finished(path, item, seed, loaded[key][item], order.experiment))
    return draw, runs
