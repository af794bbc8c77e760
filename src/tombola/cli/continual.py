"""``tombola continual``: tasks arrive one by one; what do tickets and their rivals keep, forget and store?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tombola._utils.errors import UsageError, unknown
from tombola._utils.renamed import renewed_changes
from tombola.cli.options import DEFAULTS, Integers, Page, RunOptions, Words, once
from tombola.cli.terminal import err_console, say_aside, show_rows
from tombola.lab.continual.evaluate import carried_out, rows, summary, tables
from tombola.lab.continual.kept import arrivals_of, kept_or_made, title_of
from tombola.lab.continual.rivals import APART, RIVALS
from tombola.lab.report.page import Place
from tombola.lab.report.tables import share

PLACE = Place(
    "<!-- tables: made by `tombola continual` -->",
    "<!-- end of tables -->",
    ("experiment", "preset", "method", "sparsity"),
    joins=True,
)


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

    Parameters
    ----------
    name: str
        The experiment, whose contexts are the tasks; `tombola experiments` lists them.
    rival: tuple[str, ...]
        Which of grow, grow_free, wsn, packnet, supsup, piggyback, finetune, ewc, joint, joint_learned,
        multi_head, separate; all by default.
    seed: tuple[int, ...]
        Seeds.
    set: tuple[str, ...]
        Changes of settings, as for `tombola run`.
    out: Path
        Results go to OUT/NAME-PRESET/continual/seedN/RIVAL-SPARSITY.json.
    write: Path
        A Markdown page to put the tables into, with a JSON twin beside it.
    """
    once("--seed", seed)
    once("--rival", rival)
    for wanted in rival:
        if wanted not in RIVALS:
            raise UsageError(unknown("rival", wanted, RIVALS))
    order = options.order(name, (), renewed_changes(set))
    if order.experiment.objective.context_is_answer:
        raise UsageError(f"the contexts of {name} are its answers: they cannot arrive one by one")
    data, *others = order.load().values()
    if others:
        raise UsageError(f"{name} has a network for each of its items: there are no tasks that share one")
    folder = out / f"{name.replace(':', '.')}-{order.preset}" / "continual"
    found = []
    for one in seed:
        for sparsity in order.settings.sparsity:
            arrivals = arrivals_of(order, data, one, sparsity)
            for wanted in _fitting(rival, len(arrivals.order), sparsity):
                path = folder / f"seed{one}" / f"{wanted}-{sparsity}.json"
                make = partial(carried_out, wanted, arrivals)
                result = kept_or_made(path, wanted, RIVALS[wanted], arrivals, make, say_aside)
                quality = share(summary(result)[result["metric"]])
                say_aside(f"seed {one}: {wanted} at {sparsity:.0%}: {quality}")
                found.append(result)
    made = rows(found, *title_of(order))
    show_rows(made, tables, options.json, write, PLACE)


def _fitting(wanted: Words, K: int, sparsity: float) -> list[str]:
    """The rivals that have room for all tasks; one that is asked for and has none is an error."""
    apart = [name for name in wanted or RIVALS if name in APART and K * (1 - sparsity) > 1 + 1e-9]
    words = f"K = {K} tickets of their own do not fit at {sparsity:.0%}: {1 - 1 / K:.0%} or more is needed"
    if apart and wanted:
        raise UsageError(f"{apart[0]}: {words}")
    if apart:
        err_console.print(f"{' and '.join(apart)} left out: {words}", highlight=False)
    return [name for name in wanted or RIVALS if name not in apart]
