"""``tombola affinity``: how much contexts agree, and what that says of the gain of tickets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tombola._utils.errors import DataError, UsageError
from tombola.cli.options import DEFAULTS, Flag, Integers, Page, RunOptions, Words, once
from tombola.cli.terminal import busy, show
from tombola.lab.evaluation import advised, when
from tombola.lab.report.page import check_page, made_by, put_figure, put_tables
from tombola.lab.report.rows import Row
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.report.tables import Table
from tombola.lab.results import find_runs

PLACE = made_by("affinity")


def affinity(
    *names: str,
    seed: Integers = (0, 1, 2),
    steps: int = 100,
    score: Words = (),
    lookahead: Flag = False,
    gains: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    advice: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    against: str = "gain_over_imp",
    near: float = 0.75,
    write: Page = None,
    options: RunOptions = DEFAULTS,
) -> None:
    """Measure how much the contexts of experiments agree, before any search.

    Affinity is 1 where they want the same of the weights, 0 where they want unrelated things. Information is
    what being told the context takes off the loss of one network. With --gains of several experiments it says
    whether affinity tells what tickets gain.

    Example: tombola affinity digits corruptions

    Args:
        names: Experiments; `tombola experiments` lists them.
        seed: Seeds of initial weights and orders.
        steps: Per context, of the two dense networks that information is read off; 0 leaves it out.
        score: Scores whose one-shot masks are held against those of twins: magnitude snip:5 wanda:5 ...
        lookahead: Measure what a step on the gradient of one context does to the loss of the others, too.
        gains: What full runs have shown: runs, or results pages (the JSON of --write).
        advice: What `tombola advise` has kept (its folders or advice.json), to be held against --gains.
        against: The gain that affinity is held against: gain_over_imp, gain_over_same_mask,
            gain_over_union_size, ...
        near: The sparsity at which gains are taken; the nearest that there is.
        write: A Markdown page to put the tables into, with a JSON twin and a figure beside it.
    """
    once("--seed", seed)
    if write is not None:
        check_page(write, PLACE)
    orders = [options.order(name, ()) for name in names]  # a wrong name is said before any is measured
    full, advised_rows = [row for path in gains for row in _rows(path)], advised.read(advice)
    rows: list[Row] = []
    for name, order in zip(names, orders, strict=True):
        with busy(f"affinity of {name}"):
            rows += when.measure(order, seed, steps, score, lookahead)
    rows += when.gains(full, near) + advised.right(full, advised_rows, near)
    if not rows:
        raise UsageError("name an experiment, or give --gains")
    if write is None:
        show(_tables(rows, against), rows, options.json)
        return
    put_tables(write, PLACE, rows, lambda merged: _tables(merged, against))
    found = when.worlds(_rows(write.with_suffix(".json")))
    if sum(against in world.gains for world in found) >= when.LEAST:
        law = when.law(found, against)
        put_tables(write, PLACE, law, lambda merged: _tables(merged, against))
    put_figure(when.figure(found), write)


def _tables(rows: Sequence[Row], against: str) -> list[Table]:
    return [*when.tables(rows, against), *advised.table(rows)]


def _rows(path: Path) -> list[Row]:
    """Rows of runs, or of the JSON twin of a results page."""
    if path.suffix != ".json":
        return rows_of(find_runs([path]))
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no results page ({error})") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) and "metric" in row for row in found):
        raise DataError(f"{path} is no results page: a list of rows is needed, as --write makes")
    return found
