"""What rivals keep and forget of tasks that arrived one by one.

``R[i, j]`` is the quality of the j-th task after the i-th arrived. Mean quality, backward transfer and
forgetting are of its last row (Lopez-Paz & Ranzato, arXiv 1706.08840; Chaudhry et al., arXiv 1801.10112).

Shape letters: K tasks.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tombola._utils import io
from tombola.data.partition import Partition
from tombola.lab.continual.rivals import RIVALS, WHOLE, Arrivals, Models
from tombola.lab.evaluation.new_data import judged
from tombola.lab.report.rows import Row, over_seeds
from tombola.lab.report.tables import Column, Format, Table, by_experiment, heading, outcomes, share, whole
from tombola.objectives.metrics import metric_info
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import PrototypeRouter


def carried_out(rival: str, arrivals: Arrivals) -> dict[str, Any]:
    """Qualities after each arrival ``R``, and what is stored at the end, as JSON can hold it.

    Who needs all tasks at once has one row. ``metric`` names the quality: the one by which the objective is
    judged first.
    """
    names, rows, seconds, began = arrivals.names, [], [], time.perf_counter()
    data = {name: arrivals.task(name) for name in names}
    models: Models = {}
    for models in RIVALS[rival].run(arrivals):
        seconds.append(time.perf_counter() - began)
        found = [
            judged(models[name], name, data[name], arrivals.objective) for name in names if name in models
        ]
        metric = next((name for name in found[0] if metric_info(name).primary), next(iter(found[0])))
        rows.append([values[metric] for values in found])
        began = time.perf_counter()
    return {
        "rival": rival,
        "order": list(arrivals.order),
        "names": names,
        "seed": arrivals.seed,
        "sparsity": arrivals.settings.sparsity[0],
        "metric": metric,
        "R": rows,
        "seconds": seconds,
        **stored(models),
        **inferred(models, arrivals),
    }


def inferred(models: Models, arrivals: Arrivals) -> dict[str, float]:
    """How often the task is inferred from the input, and how often task and answer are right, over tasks.

    By a prototype router that is fitted at the end on training data of all tasks; nothing where there is a
    network for each.
    """
    tickets = next(iter(models.values()))
    names, answer = list(models), tickets.metadata.get("answer", arrivals.objective.answer)
    if any(model is not tickets for model in models.values()) or answer != "class":
        return {}
    columns = [arrivals.partition.names.index(name) for name in names]
    members = {split: m[:, columns] for split, m in arrivals.partition.members.items()}
    tasks, asked = Partition(tuple(names), members), tickets.select(names)
    asked.router = PrototypeRouter().fit(asked, arrivals.data, tasks)
    found: dict[str, list[float]] = {"task_inferred": [], "accuracy_inferred": []}
    for name in names:
        data = arrivals.task(name)
        samples = torch.arange(len(data.test))
        batches = data.batches("test", samples.split(500), tickets.bits_KM.device)
        told, right = [], []
        for x, index in zip(batches, samples.split(500), strict=True):
            with torch.no_grad():
                outputs = arrivals.objective.read(asked(x, ticket=name)).cpu()
            told.append(torch.tensor([one == name for one in asked.route(x).names]))
            right.append(outputs.argmax(1) == data.test.y[index])
        found["task_inferred"].append(float(torch.cat(told).double().mean()))
        both = torch.cat(told) & torch.cat(right)
        found["accuracy_inferred"].append(float(both.double().mean()))
    return {name: float(np.mean(each)) for name, each in found.items()}


def stored(models: Models) -> dict[str, float]:
    """What is stored for all tasks: bytes of the files, and capacity.

    Capacity is that of WSN: weights in scope that any ticket keeps, at four bytes, and the masks as they are
    coded, over four bytes for each weight in scope.
    """
    different: list[TicketModel] = list({id(model): model for model in models.values()}.values())
    size = weights = masks = 0
    for model in different:
        tensors, header = model.contents("auto")
        size += io.size(tensors, header)
        weights += 4 * int(model.owned_N.count_nonzero())
        masks += sum(t.numel() * t.element_size() for name, t in tensors.items() if name.startswith("masks"))
    every = 4 * different[0].scope.size
    return {"file_bytes": size, "capacity": (weights + masks) / every, "union": weights / every}


def summary(found: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a rival: quality at the end, transfer, forgetting, what is stored, seconds per arrival.

    >>> kept = {"R": [[0.9], [0.8, 0.7]], "metric": "accuracy", "seconds": [2.0, 4.0]}
    >>> kept |= {"file_bytes": 10, "capacity": 0.5, "union": 0.4}
    >>> [round(value, 3) for value in summary(kept).values()]
    [0.75, -0.1, 0.1, 0.5, 0.4, 10.0, 3.0]
    """
    R, last = found["R"], np.array(found["R"][-1])
    values = {found["metric"]: float(last.mean())}
    if len(R) == len(last):
        own = np.array([row[-1] for row in R])
        higher = metric_info(found["metric"]).higher_is_better
        best = np.array([(max if higher else min)(row[j] for row in R[j:]) for j in range(len(R))])
        sign = 1 if higher else -1
        earlier = slice(0, max(len(R) - 1, 1))  # the last has had nothing after it
        values["backward_transfer"] = float(sign * (last - own)[earlier].mean())
        values["forgetting"] = float(sign * (best - last)[earlier].mean())
    listed = ("accuracy_inferred", "task_inferred", "capacity", "union", "file_bytes")
    kept = {name: float(found[name]) for name in listed if name in found}
    return values | kept | {"seconds": float(np.mean(found["seconds"]))}


def rows(found: Iterable[Mapping[str, Any]], experiment: str, preset: str) -> list[Row]:
    """Mean and interval over seeds of every metric of every rival."""
    values: dict[tuple[str, float, str], dict[str, float]] = {}
    for one in found:
        for metric, value in summary(one).items():
            values.setdefault((one["rival"], one["sparsity"], metric), {})[str(one["seed"])] = value
    head = {"experiment": experiment, "preset": preset}
    return [
        over_seeds(head | {"method": rival, "sparsity": sparsity, "metric": metric}, each)
        for (rival, sparsity, metric), each in values.items()
    ]


_FORMATS: dict[str, Format] = {"file_bytes": whole, "seconds": lambda value: f"{value:.1f}"}


def tables(made: Sequence[Row]) -> list[Table]:
    """A table for each experiment: a line per rival, a column per metric."""
    found = []
    for head, mine in by_experiment(made).items():
        metrics = dict.fromkeys(row["metric"] for row in mine if row["metric"] != "union")
        columns = {metric: metric.replace("_", " ") for metric in metrics}
        title = f"{heading(head)}: tasks arrive one by one"
        found.append(table(title, mine, columns, _FORMATS, WHOLE))
    return found


def table(
    title: str,
    rows: Sequence[Row],
    columns: Mapping[str, str],
    formats: Mapping[str, Format],
    unpruned: Collection[str],
) -> Table:
    """A line per rival and sparsity, which is left blank where nothing is pruned; a column per metric."""
    known = [(metric, words, formats.get(metric, share)) for metric, words in columns.items()]
    keys = {"rival": "method", "sparsity": "sparsity"}
    made = outcomes(title, rows, keys, [Column(*each, each[2]) for each in known], {"seeds": "seeds"})
    for line in made.body:
        line[1] = "" if line[0] in unpruned else line[1]
    return made


def order_of(count: int, seed: int) -> list[int]:
    """The order in which tasks arrive: as they are numbered for seed 0, at random for others."""
    if not seed:
        return list(range(count))
    return [int(k) for k in torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
