"""Results of rivals as files: what was found before is not found again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tombola._utils.device import parse
from tombola._utils.errors import RunError, TombolaError, UsageError
from tombola._utils.io import write_bytes
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.lab.continual.evaluate import order_of
from tombola.lab.continual.rivals import Arrivals
from tombola.lab.launch import Order
from tombola.lab.report.tables import share
from tombola.lab.results import names_of
from tombola.settings import Settings


class Described(Protocol):
    """A composition, whichever it is."""

    @property
    def summary(self) -> str:
        """One line."""

    @property
    def source(self) -> str:
        """Where it comes from."""


def arrivals_of(order: Order, data: Data, seed: int, sparsity: float, in_order: bool = False) -> Arrivals:
    """The contexts of an experiment as tasks, in an order that is drawn by the seed, or as they are."""
    of, partition = order.experiment, order.experiment.partition(data)
    backbone = of.backbone(generator(seed, "theta0")).to(parse(order.device or "cpu"))
    settings = replace(order.settings, sparsity=(sparsity,))
    tasks = order_of(len(partition), 0 if in_order else seed)
    return Arrivals(backbone, of.objective, data, partition, settings, seed, tasks)


def title_of(order: Order) -> tuple[str, str]:
    """Experiment and preset as on a page: changes of the preset, a stand-in and tuning join its name."""
    settings = replace(order.settings, sparsity=order.experiment.preset(order.preset)[1].settings.sparsity)
    config = {"experiment": order.experiment.name, "preset": order.preset, "settings": settings.plain()}
    return names_of(Path(), {**config, "source": order.source, "tune": order.tune})


@dataclass(frozen=True, kw_only=True)
class Job:
    """A rival to be carried out on the arrivals of a seed, and where what it finds is kept.

    Attributes:
        label: how its line begins, beside the seed.
        also: what else the result is made of, beside settings and data.
    """

    name: str
    label: str
    rival: Described
    arrivals: Arrivals
    path: Path
    make: Callable[[], dict[str, Any]]
    also: Mapping[str, Any] = field(default_factory=dict)


def tasks_of(order: Order, why: str) -> Data:
    """The data of an experiment whose contexts can be tasks; ``why`` they cannot where they are answers.

    Raises:
        UsageError: contexts are answers, or there is a network for each item.
    """
    name = order.experiment.name
    if order.experiment.objective.context_is_answer:
        raise UsageError(f"the contexts of {name} are its answers: {why}")
    data, *others = order.load().values()
    if others:
        raise UsageError(f"{name} has a network for each of its items: there are no tasks that share one")
    return data


def found_by(
    jobs: Iterable[Job],
    summary: Callable[[dict[str, Any]], Mapping[str, float]],
    say: Callable[[str], object],
) -> tuple[list[dict[str, Any]], bool]:
    """What all rivals find, and whether some failed: those lose nothing of the others.

    Raises:
        RunError: none could be carried out.
    """
    found, failed = [], False
    for job in jobs:
        words = f"seed {job.arrivals.seed}: {job.label}"
        try:
            result = kept_or_made(job, say)
        except TombolaError as error:
            say(f"{words} failed: {error}")
            failed = True
            continue
        say(f"{words}: {share(summary(result)[result['metric']])}")
        found.append(result)
    if not found:
        raise RunError("no rival could be carried out")
    return found, failed


def kept_or_made(job: Job, say: Callable[[str], object]) -> dict[str, Any]:
    """A result that was found before, or is found now and kept.

    Raises:
        RunError: the file is damaged, or is of other settings or data.
    """
    path, rival, of = job.path, job.rival, job.arrivals
    made_of = {"settings": of.settings.plain(), **of.pipeline.origin, **job.also}
    if not path.exists():
        say(f"{job.name}: {rival.summary}{rival.source and f' ({rival.source})'}")
        result = {**job.make(), "made_of": made_of}
        write_bytes(path, (json.dumps(result, indent=1) + "\n").encode())
        return result
    try:
        held: dict[str, Any] = json.loads(path.read_text())
        known = held["made_of"]
        known["settings"] = Settings.from_plain(known["settings"]).plain()  # an older one knew fewer
    except (ValueError, KeyError, TypeError, UsageError):
        raise RunError(f"{path} is damaged: delete it, and it is computed again") from None
    if known != json.loads(json.dumps(made_of)):
        raise RunError(f"{path} was made with other settings or data: choose another --out, or delete it")
    return held
