"""What ways to have K tasks on one pretrained network reach, store and take.

*Bytes per task* are those of the files beside the base network, over K. *Bytes in all* add what is needed of
the base: all of it where tickets or adapters are changes of it, what stayed as it was where it is not needed
otherwise.

Shape letters: K tasks, B batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tombola._utils import batch, io
from tombola._utils.device import device_of
from tombola._utils.memory import Peak
from tombola.lab.adaptation.rivals import BEFORE, RIVALS, SPARSE, TRAINED
from tombola.lab.continual.evaluate import table
from tombola.lab.continual.rivals import Arrivals, Models
from tombola.lab.evaluation.new_data import judged
from tombola.lab.report.page import Place, made_by
from tombola.lab.report.rows import Row, over_seeds
from tombola.lab.report.tables import Format, Table, by_experiment, heading
from tombola.masks.reference import references
from tombola.objectives.metrics import metric_info
from tombola.tickets.model import TicketModel

TUNED = "full_fine_tune"  # to whom others are compared
KEPT = ("bytes_per_task", "bytes_total", "active", "union", "seconds", "memory", "latency")
MIXED, REPEATS = 32, 5  # samples in the mixed batch; passes of which the median counts


def carried_out(rival: str, arrivals: Arrivals, folder: Path) -> dict[str, Any]:
    """Quality of every task, and what is stored and taken, as JSON can hold it.

    ``metric`` names the quality: the one by which the objective is judged first. ``seconds`` are those of
    search and training, of the fine-tunes too that others go on from, whenever they were made. ``memory`` is
    the most that was held in them beside base network and data, where fine-tunes were kept without these.
    """
    names, peak = arrivals.names, Peak(device_of(arrivals.backbone))
    began = time.perf_counter()
    models = RIVALS[rival].models(arrivals, folder)
    before = float(next(iter(models.values())).metadata.pop(BEFORE, 0.0))
    seconds, memory = time.perf_counter() - began + before, peak.bytes()
    found = {name: judged(models[name], name, arrivals.task(name), arrivals.objective) for name in names}
    listed = found[names[0]]
    metric = next((name for name in listed if metric_info(name).primary), next(iter(listed)))
    return {
        "rival": rival,
        "names": names,
        "seed": arrivals.seed,
        "sparsity": RIVALS[rival].settings(arrivals.settings).sparsity[0],
        "metric": metric,
        "quality": [found[name][metric] for name in names],
        "seconds": seconds,
        **({} if memory is None else {"memory": memory}),
        "latency": latency(models, arrivals),
        **stored(models, arrivals.backbone),
    }


def stored(models: Models, base: nn.Module) -> dict[str, float]:
    """Bytes beside the base over tasks, and in all; weights that a ticket and all tickets keep."""
    different: list[TicketModel] = list({id(model): model for model in models.values()}.values())
    state, first = base.state_dict(), different[0]
    sizes = {name: t.numel() * t.element_size() for name, t in state.items()}
    if TRAINED in first.metadata:
        moved = {name for name, p in first.backbone.named_parameters() if p.requires_grad}
        own = sum(model.metadata[TRAINED] for model in different)
        return _bytes(own, sum(size for name, size in sizes.items() if name not in moved), len(models))
    own, of_base = 0, sum(sizes.values())
    for model in different:
        tensors, header = model.contents("auto")
        own += io.size(tensors, header)
        if not references(model.backbone):  # what stayed as it was counts as the base's, once
            rest = {name: tensors.get(f"rest.{name}", t[:0]) for name, t in state.items() if t.ndim}
            of_base = sum(sizes[name] for name, t in rest.items() if torch.equal(t, state[name]))
            own -= of_base
    kept = {
        "active": float(np.mean([int(model[name].count_nonzero()) for name, model in models.items()])),
        "union": float(sum(int(model.owned_N.count_nonzero()) for model in different)),
    }
    return _bytes(own, of_base, len(models)) | kept


def _bytes(own: int, of_base: int, K: int) -> dict[str, float]:
    return {"bytes_per_task": own / K, "bytes_total": float(own + of_base)}


@torch.no_grad()
def latency(models: Models, arrivals: Arrivals) -> float:
    """Time of a batch in which all tasks are mixed, over that of the base network on the same samples."""
    count, base = max(MIXED // len(models), 1), arrivals.backbone.eval()
    names, where = [name for name in models for _ in range(count)], device_of(base)
    parts = [
        data.inputs("test", torch.arange(count) % len(data.test), device=where)
        for data in (arrivals.task(name) for name in models)
    ]
    x, rows = batch.mapped(lambda *each: torch.cat(each), *parts), torch.arange(len(names), device=where)
    different = {id(model): model for model in models.values()}

    def mixed() -> None:
        for model in different.values():
            mine = [i for i, name in enumerate(names) if models[name] is model]
            model(batch.take(x, rows[mine]), ticket=[names[i] for i in mine])

    return _median(mixed, where) / _median(lambda: batch.call(base, x), where)


def _median(run: Callable[[], object], where: torch.device) -> float:
    wait = partial(torch.cuda.synchronize, where) if where.type == "cuda" else lambda: None
    run()
    taken = []
    for _ in range(REPEATS):
        wait()
        began = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


# -- over seeds ----------------------------------------------------------------------------------------------


def summary(found: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a rival: mean quality and that of every task, bytes, seconds, latency."""
    each = dict(zip(found["names"], found["quality"], strict=True))
    kept = [name for name in KEPT if name in found]
    return {
        found["metric"]: float(np.mean(found["quality"])),
        **{f"{found['metric']} {name}": value for name, value in each.items()},
        **{name: float(found[name]) for name in kept},
    }


def rows(found: Iterable[Mapping[str, Any]], experiment: str, preset: str) -> list[Row]:
    """Mean and interval over seeds of every metric, and what each is behind full fine-tunes, by seed."""
    values: dict[tuple[str, float, str], dict[str, float]] = {}
    for one in found:
        sparsity = one["sparsity"] if one["rival"] in SPARSE else 0.0
        for metric, value in summary(one).items():
            values.setdefault((one["rival"], sparsity, metric), {})[str(one["seed"])] = value
    head = {"experiment": experiment, "preset": preset}
    return with_behind(
        [
            over_seeds(head | {"method": rival, "sparsity": sparsity, "metric": metric}, each)
            for (rival, sparsity, metric), each in values.items()
        ]
    )


def with_behind(made: Sequence[Row]) -> list[Row]:
    """The rows, and what the quality of each is behind that of full fine-tunes, in the seeds of both."""
    found: list[Row] = []
    for mine in by_experiment([row for row in made if row["metric"] != "behind"]).values():
        quality = mine[0]["metric"]
        ahead = metric_info(quality).ahead
        tuned = {row["metric"]: row["values"] for row in mine if row["method"] == TUNED}.get(quality, {})
        for row in mine:
            found.append(row)
            if row["metric"] == quality and row["method"] != TUNED:
                both = {seed: value for seed, value in row["values"].items() if seed in tuned}
                behind = {seed: ahead(tuned[seed], value) for seed, value in both.items()}
                found += [over_seeds(row | {"metric": "behind"}, behind)] if behind else []
    return found


def place() -> Place:
    """Where tables stand on a page: rivals in their order, each beside the full fine-tunes of the page."""

    def rank(row: Row) -> tuple[Any, ...]:
        method = row["method"]
        return row["experiment"], row["preset"], [*RIVALS, method].index(method), row["sparsity"]

    return replace(made_by("adapt"), rank=rank, completed=with_behind)


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.2f}"


_FORMATS: dict[str, Format] = {
    **dict.fromkeys(("bytes_per_task", "bytes_total"), _megabytes),
    "seconds": lambda value: f"{value:,.0f}",
    "memory": lambda value: f"{value / 1e6:,.0f}",
    "latency": lambda value: f"{value:.1f}",
}
_SHOWN = {
    "behind": "behind full fine-tunes",
    "bytes_per_task": "MB per task",
    "bytes_total": "MB in all",
    "seconds": "seconds",
    "memory": "MB of memory",
    "latency": "mixed batch ÷ base",
}


def tables(made: Sequence[Row]) -> list[Table]:
    """Quality and size of each rival, and quality task by task."""
    found = []
    for head, mine in by_experiment(made).items():
        metrics = list(dict.fromkeys(row["metric"] for row in mine))
        quality, by_task = metrics[0], f"{metrics[0]} "
        shown = {quality: quality} | _SHOWN
        each = {m: m.removeprefix(by_task) for m in metrics if m.startswith(by_task)}
        unpruned = {row["method"] for row in mine if not row["sparsity"]}
        for title, columns in (("quality and size", shown), (f"{quality} by task", each)):
            found.append(table(f"{heading(head)}: {title}", mine, columns, _FORMATS, unpruned))
    return found
