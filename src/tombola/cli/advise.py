"""``tombola advise``: do tickets pay here, and what should be run?"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tombola._utils.device import parse
from tombola._utils.errors import UsageError, unknown
from tombola._utils.io import write_bytes
from tombola._utils.renamed import renewed_changes
from tombola._utils.rng import generator
from tombola.analysis.advise import Advice
from tombola.analysis.advise import advise as advice_of
from tombola.cli.options import DEFAULTS, Flag, RunOptions, Words, say_overridden
from tombola.cli.terminal import out_console, print_json, say_aside, to_json
from tombola.lab.launch import Order


def advise(
    name: str,
    /,
    *,
    minutes: float = 5.0,
    seed: int = 0,
    item: str = "",
    set: Words = (),
    out: Path = Path("runs"),
    brief: Flag = False,
    options: RunOptions = DEFAULTS,
) -> None:
    """Say whether tickets pay, before anything long: do the contexts agree, and what do short runs show?

    Example: tombola advise digits --minutes 1

    Args:
        name: The experiment; `tombola experiments` lists them. MODULE:NAME is one of your own.
        minutes: The budget, kept to about a tenth; reading data comes on top.
        seed: The first of three seeds of data order; the initial weights are those of this one.
        item: Where every item (a photograph) has a network of its own: which of them; the first by default.
        set: Changes of settings, as for `tombola run`.
        out: Short runs and answer go to OUT/NAME-PRESET/advice, where `tombola report` finds them.
        brief: Print the answer and its reasons in words, without the table.
    """
    changes = renewed_changes(set)
    order = options.order(name, (), changes)
    say_overridden([order], changes)
    found = order.load()
    if item and item not in found:
        raise UsageError(unknown("item", item, found))
    of, data = order.experiment, found[item or next(iter(found))]
    folder = order.folder(out) / item / "advice"
    backbone = of.backbone(generator(seed, "theta0")).to(parse(options.device or "cpu"))
    given = backbone, of.objective, data, of.partition(data)
    how: dict[str, Any] = {"settings": order.settings, "seed": seed, "parallel": options.parallel}
    began = time.perf_counter()
    advice = advice_of(*given, **how, minutes=minutes, out=folder)
    say_aside(f"{time.perf_counter() - began:.0f} seconds, of {60 * minutes:g}")
    whole = {"experiment": of.name, "preset": order.preset, **advice.plain()}
    write_bytes(folder / "advice.json", to_json(whole).encode())
    if options.json:
        print_json(whole)
        return
    out_console.print(advice.brief if brief else str(advice), soft_wrap=True)
    out_console.print(f"\nNext: {_command(order, advice, changes, item)}", soft_wrap=True)


def _command(order: Order, advice: Advice, changes: Sequence[str], item: str) -> str:
    """What to run now, as it was asked about: the advised method and, to see what it is worth, one mask."""
    first = next(iter(order.experiment.presets))
    words = ["--preset", order.preset] if order.preset != first else []
    words += ["--data", order.source] if order.source else []
    if order.augment != order.experiment.presets[order.preset].augment:
        words += ["--augment" if order.augment else "--no-augment"]
    words += ["--tune"] if order.tune else []
    words += ["--device", order.device] if order.device else []
    words += ["--item", item] if item else []
    words += ["--method", *dict.fromkeys([advice.method, "imp"])]
    words += ["--sparsity", f"{advice.sparsity:g}", "--seed", "0", "1", "2"]
    kept = [change for change in changes if not change.startswith("sparsity=")]  # it is advised
    words += ["--set", *kept] if kept else []
    return shlex.join(["tombola", "run", order.experiment.name, *words])
