"""Results of rivals as files: what was found before is not found again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tombola._utils.device import parse
from tombola._utils.errors import RunError, UsageError
from tombola._utils.io import write_bytes
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.lab.continual.evaluate import order_of
from tombola.lab.continual.rivals import Arrivals
from tombola.lab.launch import Order
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


def arrivals_of(
    order: Order, data: Data, seed: int, sparsity: float, device: str = "", in_order: bool = False
) -> Arrivals:
    """The contexts of an experiment as tasks, in an order that is drawn by the seed, or as they are."""
    of, partition = order.experiment, order.experiment.partition(data)
    backbone = of.backbone(generator(seed, "theta0")).to(parse(device or order.device or "cpu"))
    settings = replace(order.settings, sparsity=(sparsity,))
    tasks = order_of(len(partition), 0 if in_order else seed)
    return Arrivals(backbone, of.objective, data, partition, settings, seed, tasks)


def title_of(order: Order) -> tuple[str, str]:
    """Experiment and preset as on a page: changes of the preset, a stand-in and tuning join its name."""
    settings = replace(order.settings, sparsity=order.experiment.preset(order.preset)[1].settings.sparsity)
    config = {"experiment": order.experiment.name, "preset": order.preset, "settings": settings.plain()}
    return names_of(Path(), {**config, "source": order.source, "tune": order.tune})


def kept_or_made(
    path: Path,
    name: str,
    rival: Described,
    arrivals: Arrivals,
    make: Callable[[], dict[str, Any]],
    say: Callable[[str], object],
    also: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A result that was found before, or is found now and kept; ``also`` is what else it was made of.

    Raises:
        RunError: the file is damaged, or is of other settings or data.
    """
    made_of = {"settings": arrivals.settings.plain(), **arrivals.pipeline.origin, **(also or {})}
    if not path.exists():
        say(f"{name}: {rival.summary}{rival.source and f' ({rival.source})'}")
        result = {**make(), "made_of": made_of}
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
