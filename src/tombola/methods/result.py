"""A method carried out at one sparsity: its tickets, its metrics, and all that it stores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils import io
from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.errors import TicketFileError, TombolaError, unknown
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import kappa
from tombola.methods.pipeline import Network, Pipeline, predict
from tombola.methods.table import Method, dense, method
from tombola.objectives import Metric
from tombola.objectives.metrics import introduced
from tombola.runs.stages import Stage, Work
from tombola.tickets.model import TicketModel


@dataclass
class Outcome:
    """Tickets of one method at one sparsity; several models where nothing is shared.

    >>> outcome = Outcome("imp", 0.75, [], [Metric("accuracy", 0.5), Metric("accuracy", 0.25, ticket="cat")])
    >>> outcome["accuracy"], outcome.of("accuracy", "cat")
    (0.5, 0.25)
    """

    method: str
    sparsity: float
    models: list[TicketModel]
    metrics: list[Metric]

    @property
    def tickets(self) -> TicketModel:
        """The one model of a method that shares its weights.

        Raises:
            TombolaError: the method has a network per subset.
        """
        if len(self.models) != 1:
            raise TombolaError(f"{self.method} has {len(self.models)} networks, one per subset: use models")
        return self.models[0]

    def __getitem__(self, name: str) -> float:
        """A metric over all tickets."""
        return self.of(name)

    def of(self, name: str, ticket: str = "", reading: str = "like_for_like") -> float:
        """A metric, of all tickets or of one; ``reading`` chooses where there are two (`Metric`).

        Raises:
            TombolaError: it was not measured; the message lists what was.
        """
        measured = [metric for metric in self.metrics if metric.ticket == ticket]
        found = {metric.reading: metric.value for metric in measured if metric.name == name}
        if not found:
            raise TombolaError(unknown("metric", name, dict.fromkeys(m.name for m in measured)))
        return found.get(reading, next(iter(found.values())))

    def __repr__(self) -> str:
        values = {m.name: m.value for m in self.metrics if not m.ticket and m.reading != "paper"}
        shown = ", ".join(f"{name}={value:,.4g}" for name, value in values.items())
        return f"Outcome({self.method} at {self.sparsity:.4g}, models={len(self.models)}, {shown})"


def run_method(pipeline: Pipeline, name: str, sparsity: float) -> Outcome:
    """Search, train, finish, judge and save one method at one sparsity."""
    chosen, late = method(name), pipeline.settings.rewind
    pipeline = chosen.variant(pipeline, name)
    masks = chosen.mask_set(pipeline, sparsity)
    models, seen = _train(pipeline, chosen, name, masks, sparsity, late)
    similarity = _similarity(pipeline, name, sparsity, masks)

    def compute(checkpoint: Checkpoint) -> State:
        sizes = [_save(pipeline, model, f"{name}-{sparsity}", len(models)) for model in models]
        judged = _judge(pipeline, chosen, models)
        for info in introduced({metric.name: metric.reading for metric in judged}):
            checkpoint.record(event="metric_info", info=asdict(info))
        metrics = [
            *judged,
            *similarity,
            *counts(models, pipeline),
            Metric("file_bytes", sum(sizes)),
            Metric("samples_search", pipeline.samples_in_search(chosen.search, chosen.task, sparsity)),
            Metric("samples_train", seen),
        ]
        for metric in metrics:
            row = {"reading": metric.reading, "ticket": metric.ticket}
            head = {"event": "metric", "method": name, "sparsity": sparsity, "metric": metric.name}
            row = {key: value for key, value in row.items() if value}
            checkpoint.record(**head, value=metric.value, **row)
        return {}, {"metrics": [vars(metric) for metric in metrics]}

    _, metadata = pipeline.cache.get_or_compute(Stage("judge", name, sparsity=sparsity), compute)
    return Outcome(name, sparsity, models, [Metric(**row) for row in metadata["metrics"]])


def trained(pipeline: Pipeline, name: str, sparsity: float) -> list[TicketModel]:
    """The models of a method at a sparsity, neither judged nor saved."""
    chosen, late = method(name), pipeline.settings.rewind
    pipeline = chosen.variant(pipeline, name)
    return _train(pipeline, chosen, name, chosen.mask_set(pipeline, sparsity), sparsity, late)[0]


def sparsities_of(pipeline: Pipeline, name: str) -> list[float]:
    """The sparsities at which a method is run: those asked for, lowest first; 0 if nothing is pruned."""
    return [0.0] if method(name).masks is dense else sorted(pipeline.settings.sparsity)


def is_done(pipeline: Pipeline, name: str, sparsity: float) -> bool:
    """Whether this outcome is there already."""
    return pipeline.cache.metadata(Stage("judge", name, sparsity=sparsity)) is not None


def repair(pipeline: Pipeline, name: str, sparsity: float) -> bool:
    """Write ticket files of a finished outcome again that are missing or damaged; whether there were any."""
    chosen, label, late = method(name), f"{name}-{sparsity}", pipeline.settings.rewind
    names = [""] if chosen.shared or len(pipeline.partition) == 1 else pipeline.partition.names
    if pipeline.cache.agreed(all(_sound(pipeline.cache.file(_file(label, name))) for name in names)):
        return False
    pipeline = chosen.variant(pipeline, name)
    models, _ = _train(pipeline, chosen, name, chosen.mask_set(pipeline, sparsity), sparsity, late)
    for model in models:
        _save(pipeline, model, label, len(models))
    return True


def _sound(path: Path | None) -> bool:
    try:
        return path is None or bool(io.read(path))
    except TicketFileError:
        return False


def _train(
    pipeline: Pipeline, chosen: Method, name: str, masks: MaskSet, sparsity: float, late: int
) -> tuple[list[TicketModel], int]:
    """Algorithm 2."""
    found = [pipeline.train(each) for each in _networks(pipeline, chosen, name, masks, sparsity, late)]
    return [model for model, _ in found], sum(seen for _, seen in found)


def _networks(
    pipeline: Pipeline, chosen: Method, name: str, masks: MaskSet, sparsity: float, late: int
) -> Iterator[Network]:
    """The networks of a method at a sparsity.

    Whoever begins at initial weights makes up for the ``late`` steps of the rewind point: all networks come
    equally far from their initialisation.
    """
    search = None if chosen.start else chosen.search
    s = pipeline.settings
    for ticket in [None] if chosen.shared else range(len(masks)):
        alone = "" if ticket is None else masks.names[ticket]
        if chosen.start:
            start = chosen.start(pipeline)
        else:
            start = pipeline.start(search, chosen.task, sparsity, ticket)
        yield Network(
            Stage("train", name, sparsity=sparsity, ticket=alone),
            chosen.task,
            masks,
            ticket,
            start,
            config=pipeline.config(search),
            further=late if chosen.start or not s.rewind else 0,
            frozen=s.weights == "frozen" or (search is not None and s.frozen),
        )


def ask(pipeline: Pipeline, name: str, sparsity: float) -> None:
    """Ask for the stages of an outcome as `run_method` does, where the cache computes none of them."""
    chosen, late = method(name), pipeline.settings.rewind
    pipeline = chosen.variant(pipeline, name)
    masks = chosen.mask_set(pipeline, sparsity)
    for each in _networks(pipeline, chosen, name, masks, sparsity, late):
        pipeline.weights(each)
    _similarity(pipeline, name, sparsity, masks)
    stage, work = Stage("judge", name, sparsity=sparsity), _judging(pipeline, chosen, masks)
    pipeline.cache.get_or_compute(stage, lambda _: ({}, {}), work=work)


def _judging(pipeline: Pipeline, chosen: Method, masks: MaskSet) -> Work:
    """What it takes to judge tickets and write their files, at most."""
    f, K, networks = pipeline.f, len(masks), 1 if chosen.shared else len(masks)
    samples = len(pipeline.data.validation) + len(pipeline.data.test)
    every = K if pipeline.objective.context_is_answer else 1  # each ticket sees all, or its own subset
    counted = sorted(masks.counts.values())
    kept = sum(counted) if chosen.task == "own" else counted[-1]
    numbers = min(kept, networks * f.scope.size) + networks * f.shared.size + K * f.private.size
    buffers = sum(b.numel() for b in pipeline.theta0.buffers.values())
    return Work(passes=every * samples, file_bytes=4 * (numbers + K * buffers) + K * -(-f.scope.size // 8))


def _judge(pipeline: Pipeline, chosen: Method, models: list[TicketModel]) -> list[Metric]:
    objective = pipeline.objective
    if chosen.task.startswith("single"):
        objective = objective.single(pipeline.partition)
    every = [(model, name) for model in models for name in model.names]
    cache: dict[tuple[str, int], Tensor] = {}

    @lru_cache(maxsize=1)  # K networks at once may be more than there is memory
    def baked(k: int) -> nn.Module:
        model, name = every[k]
        return model.bake(name)

    def outputs(split: str, k: int, index: Tensor | None = None) -> Tensor:
        how: dict[str, Any] = {"rows": objective.rows, "read": objective.read, "judged": objective.judged}
        if index is not None:
            return predict(baked(k), pipeline.data, split, index, **how)
        if (split, k) not in cache:
            cache[split, k] = predict(baked(k), pipeline.data, split, **how)
        return cache[split, k]

    return objective.evaluate(outputs, pipeline.data, pipeline.partition)


def _similarity(pipeline: Pipeline, name: str, sparsity: float, masks: MaskSet) -> list[Metric]:
    """Mean pairwise similarity of the tickets; for twins also with RTL's ticket of the same subset."""
    metrics = []
    if len(masks) > 1:
        others = ~torch.eye(len(masks), dtype=torch.bool)
        metrics = [
            Metric("jaccard", float(masks.jaccard()[others].mean())),
            Metric("kappa", float(kappa(masks, masks)[others].mean())),
        ]
    if name == "twin":
        own = pipeline.masks("own", sparsity)
        metrics.append(Metric("kappa_twin", float(kappa(masks, own).diagonal().mean())))
    return [metric for metric in metrics if math.isfinite(metric.value)]  # no kappa between full masks


def counts(models: list[TicketModel], pipeline: Pipeline) -> list[Metric]:
    """Everything that is stored, counted; see ``docs/columns.md`` for the columns."""
    sets = [model.masks for model in models]
    tickets = sum(len(masks) for masks in sets)
    values: dict[str, Any] = {
        "per_ticket": sum(sum(masks.counts.values()) for masks in sets) / tickets,
        "union": sum(int(masks.union().count_nonzero()) for masks in sets),
        "core": int(sets[0].core().count_nonzero())
        if len(sets) == 1
        else 0,  # networks have no weight in common
        "private": sum(len(m.names) * (m.private.size + m.statistics.size) for m in models),
        "dense_rest": len(models) * pipeline.f.shared.size,
        "mask_bytes": sum(masks.pack().numel() for masks in sets),
    }
    return [Metric(name, float(value)) for name, value in values.items()]


def _file(label: str, ticket: str = "") -> str:
    return f"{label}-{ticket}.tickets" if ticket else f"{label}.tickets"


def _save(pipeline: Pipeline, model: TicketModel, label: str, models: int) -> int:
    """The bytes of a ticket file, written if there is a place; masks plain, so equal on every machine."""
    path = pipeline.cache.file(_file(label, "" if models == 1 else model.names[0]))
    if path is not None:
        return model.save(path, coding="plain")
    return io.size(*model.contents(coding="plain"))
