"""``tombola continual``: tasks arrive one by one; what do tickets and their rivals keep, forget and store?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from tombola._utils.errors import RunError, UsageError
from tombola._utils.renamed import renewed_changes
from tombola.cli.options import DEFAULTS, Integers, Page, RunOptions, Words, once
from tombola.cli.terminal import say_aside, show_rows
from tombola.lab.continual.evaluate import carried_out, rows, summary, tables
from tombola.lab.continual.kept import Job, arrivals_of, found_by, tasks_of, title_of
from tombola.lab.continual.rivals import APART, RIVALS
from tombola.lab.report.page import check_page, made_by

PLACE = made_by("continual")


def continual(
    name: str,
    /,
    *,
    rival: Words = (),
    seed: Integers = (0,),
    set: Words = (),
    out: Path = Path("runs"),
    write: Page = None,
    options: RunOptions = DEFAULTS,
) -> None:
    """Let the contexts of an experiment arrive one by one, and compare what serves them.

    After every arrival all tasks so far are judged on their test splits. Seed 0 has the tasks in their order,
    others at random; it is that of initial weights and data order too. What is done is not done again.

    Example: tombola continual tenants --rival grow finetune ewc separate --sparsity 0.9

    Args:
        name: The experiment, whose contexts are the tasks; `tombola experiments` lists them.
        rival: Which of grow, grow_free, wsn, packnet, supsup, piggyback, finetune, ewc, joint, joint_learned,
            multi_head, separate; all by default.
        seed: Seeds.
        set: Changes of settings, as for `tombola run`.
        out: Results go to OUT/NAME-PRESET/continual/seedN/RIVAL-SPARSITY.json.
        write: A Markdown page to put the tables into, with a JSON twin beside it.
    """
    once("--seed", seed)
    once("--rival", rival, RIVALS)
    if write is not None:
        check_page(write, PLACE)
    order = options.order(name, (), renewed_changes(set))
    data = tasks_of(order, "they cannot arrive one by one")
    folder = order.folder(out) / "continual"

    def jobs() -> Iterator[Job]:
        for one, sparsity in product(seed, order.settings.sparsity):
            arrivals = arrivals_of(order, data, one, sparsity)
            for wanted in _fitting(rival, len(arrivals.order), sparsity):
                label, make = f"{wanted} at {100 * sparsity:.4g}%", partial(carried_out, wanted, arrivals)
                path = folder / f"seed{one}" / f"{wanted}-{sparsity}.json"
                yield Job(
                    name=wanted, label=label, rival=RIVALS[wanted], arrivals=arrivals, path=path, make=make
                )

    found, failed = found_by(jobs(), summary, say_aside)
    show_rows(rows(found, *title_of(order)), tables, options.json, write, PLACE)
    if failed:
        raise RunError("some rivals failed, see above")


def _fitting(wanted: Words, K: int, sparsity: float) -> list[str]:
    """The rivals that have room for all tasks; one that is asked for and has none is an error."""
    apart = [name for name in wanted or RIVALS if name in APART and K * (1 - sparsity) > 1 + 1e-9]
    words = f"K = {K} tickets of their own do not fit at {sparsity:.0%}: {1 - 1 / K:.0%} or more is needed"
    if apart and wanted:
        raise UsageError(f"{apart[0]}: {words}")
    if apart:
        say_aside(f"{' and '.join(apart)} left out: {words}")
    return [name for name in wanted or RIVALS if name not in apart]
