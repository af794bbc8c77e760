"""``tombola adapt``: tasks on one pretrained network; tickets beside adapters, fine-tunes and merging."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tombola._utils.errors import MissingExtra, RunError, UsageError, install
from tombola._utils.renamed import renewed_changes
from tombola.cli.options import DEFAULTS, Flag, Integers, Page, RunOptions, Words, once
from tombola.cli.terminal import say_aside, show_rows
from tombola.lab.adaptation.evaluate import carried_out, place, rows, summary, tables
from tombola.lab.adaptation.figure import figure
from tombola.lab.adaptation.rivals import NEED_PEFT, RIVALS
from tombola.lab.continual.kept import Job, arrivals_of, found_by, tasks_of, title_of
from tombola.lab.continual.rivals import Arrivals
from tombola.lab.launch import Order
from tombola.lab.report.page import check_page, put_figure
from tombola.masks.reference import original


def adapt(
    name: str,
    /,
    *,
    rival: Words = (),
    seed: Integers = (0,),
    set: Words = (),
    out: Path = Path("runs"),
    write: Page = None,
    brief: Flag = False,
    options: RunOptions = DEFAULTS,
) -> None:
    """Have the tasks of an experiment on one pretrained network in several ways, at equal steps per task.

    Quality is judged on test splits, beside bytes per task and in all, seconds, and the time of a batch in
    which tasks are mixed. What is done is not done again.

    Example: tombola adapt sentences --data FOLDER --rival rtl_theta0 lora_r4 full_fine_tune

    Args:
        name: The experiment, whose contexts are the tasks; `tombola experiments` lists them.
        rival: Which of frozen_head, bitfit, ia3, lora_r4, lora_r16, shira, full_fine_tune, multi_task,
            merge_mean, merge_ties, merge_dare, merge_tall, merge_tall_chosen, merge_emr, bitdelta,
            own_change, imp, rtl, rtl_theta0, rtl_theta0_97, lt_sft, grow, learned; all by default.
        seed: Integers of new output layers and of data order.
        set: Changes of settings, as for `tombola run`.
        out: Results go to OUT/NAME-PRESET/adapt/seedN/RIVAL-SPARSITY.json, fine-tunes to OUT/fine_tunes.
        write: A Markdown page to put the tables into, with a JSON twin and a figure beside it.
        brief: Print the first table alone.
    """
    once("--seed", seed)
    once("--rival", rival, RIVALS)
    if write is not None:
        check_page(write, place())
    order = options.order(name, (), renewed_changes(set))
    data = tasks_of(order, "they are no tasks of their own")
    _check(order)
    chosen = _possible(rival)
    folder = order.folder(out) / "adapt"

    def jobs() -> Iterator[Job]:
        for one in seed:
            arrivals = arrivals_of(order, data, one, order.settings.sparsity[0], in_order=True)
            _check_head(order, arrivals)
            for wanted in chosen:
                of, make = RIVALS[wanted], partial(carried_out, wanted, arrivals, out / "fine_tunes")
                sparsity = of.settings(arrivals.settings).sparsity[0]
                path = folder / f"seed{one}" / f"{wanted}-{sparsity}.json"
                also = {"settings": of.settings(arrivals.settings).plain()}
                yield Job(
                    name=wanted, label=wanted, rival=of, arrivals=arrivals, path=path, make=make, also=also
                )

    found, failed = found_by(jobs(), summary, say_aside)
    title = title_of(order)
    made = rows(found, *title)
    show_rows(made, tables, options.json, write, place(), brief=brief)
    if write is not None:  # of all rows that the page has now
        held = json.loads(write.with_suffix(".json").read_text())
        drawn = put_figure(figure(held, *title), write, "-".join(title).replace(" ", "-"))
        say_aside(f"the figure is {drawn}")
    if failed:
        raise RunError("some rivals failed, see above")


def _check(order: Order) -> None:
    """Raise `UsageError` for settings under which rivals would not be those that they are called."""
    settings = order.settings
    if len(settings.sparsity) > 1:
        raise UsageError("adapt compares at one sparsity of the change: give --sparsity 0.9")
    if settings.reference != "theta0":
        raise UsageError("adapt is about changes of a pretrained network: give --set reference=theta0")
    if settings.schedule != "one_shot":
        raise UsageError("adapt gives all rivals the steps of one round: give --set schedule=one_shot")


def _check_head(order: Order, arrivals: Arrivals) -> None:
    """Raise `UsageError` for a network without an output layer that tasks may have one each of."""
    head = arrivals.pipeline.head
    known = dict(arrivals.backbone.named_parameters())
    if head is None or not known[original(head.weight)].requires_grad:
        raise UsageError(
            f"adapt gives each task an output layer of its own, and the network of {order.experiment.name} "
            "has none that is trained"
        )


def _possible(wanted: Words) -> list[str]:
    """The rivals that what is installed allows; one that is asked for and cannot be is an error."""
    if find_spec("peft") is not None:
        return [*(wanted or RIVALS)]
    if asked := [name for name in wanted if name in NEED_PEFT]:
        raise MissingExtra("peft", "pretrained", asked[0])
    if not wanted:
        say_aside(f"{', '.join(sorted(NEED_PEFT))} left out: they need peft; {install('pretrained')}")
    return [name for name in wanted or RIVALS if name not in NEED_PEFT]
