"""A finished run with its data, opened again: what routers and calibrations are fitted on and judged by.

Shape letters: S samples of a split, B batch, K tickets or other networks, C classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tombola._utils import io
from tombola._utils.batch import part_of
from tombola._utils.errors import RunError, UsageError, unknown
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.lab.launch import Order, order_of
from tombola.lab.results import names_of
from tombola.methods.pipeline import predict
from tombola.methods.table import METHODS
from tombola.objectives import Objective
from tombola.objectives.classification import classes_of, differ, mask_logits
from tombola.objectives.metrics import METRICS
from tombola.runs.log import read_config
from tombola.tickets.fitted import take_over
from tombola.tickets.inputs import described
from tombola.tickets.model import TicketModel, load
from tombola.tickets.routing import Routed, mixed

IN_MEMORY = 2**28  # bytes; what is larger (spectrograms) lies in a temporary file
LARGE = 2**14  # numbers in one answer; such inputs go through the network in small batches
Quality = tuple[str, float]  # a metric: name and value


@dataclass(frozen=True)
class LoadedRun:
    """One run: its experiment and seed, its data and partition, and where its ticket files are."""

    path: Path
    experiment: str
    preset: str
    seed: int
    order: Order
    data: Data
    partition: Partition

    @property
    def objective(self) -> Objective:
        """The task."""
        return self.order.experiment.objective

    @property
    def backbone(self) -> nn.Module:
        """The dense network."""
        return self.order.experiment.backbone(generator(self.seed, "theta0"))

    def tickets(self, method: str, sparsity: float) -> TicketModel | None:
        """The tickets of one outcome; None if the run has none."""
        file = self.path / "tickets" / f"{method}-{sparsity}.tickets"
        return load(file, self.backbone) if file.is_file() else None

    def of_subsets(self, method: str, sparsity: float) -> TicketModel:
        """The tickets of one outcome, one per subset."""
        tickets = self.tickets(method, sparsity)
        if tickets is None:
            known = [f"{s:g}" for s in self.sparsities(method)]
            raise UsageError(unknown(f"sparsity of {method} in {self.path}", f"{sparsity:g}", known))
        if len(tickets.names) < 2:
            raise UsageError(
                f"{method} has a single network, which is measured beside tickets in any case: name a method "
                "with a ticket per subset"
            )
        return tickets

    def sparsities(self, method: str) -> list[float]:
        """At which sparsities the run has tickets of a method."""
        files = (self.path / "tickets").glob(f"{method}-*.tickets")
        found = [file.stem.removeprefix(f"{method}-") for file in files]
        numbers = sorted(float(text) for text in found if text.replace(".", "", 1).isdigit())
        if found and not numbers:
            raise UsageError(f"{method} has a network per subset, not tickets of one: name another method")
        if not numbers and method not in METHODS:
            raise UsageError(unknown("method", method, METHODS))
        if not numbers:
            raise RunError(f"{self.path} holds no tickets/{method}-*.tickets: run that method first")
        return numbers

    def where(self, split: str) -> Tensor:
        """The number of the context of each sample ``[S]``; the first, where it has several."""
        return self.partition.members[split].int().argmax(1)

    def judged_on_validation(self) -> LoadedRun:
        """The same with validation in the place of the test split, for choices."""
        data = replace(self.data, test=self.data.validation)
        members = {**self.partition.members, "test": self.partition.members["validation"]}
        return replace(self, data=data, partition=replace(self.partition, members=members))

    @cached_property
    def classes_KC(self) -> Tensor | None:
        """Which classes each context has in training, boolean ``[K, C]``; None where all have the same."""
        if self.objective.answer != "class":
            return None
        classes_KC = classes_of(self.data, self.partition)
        return classes_KC if differ(classes_KC) else None

    def answers(self, networks: Sequence[nn.Module], known: bool = True) -> Answers:
        """All answers of these networks on the test split.

        A ticket answers among the classes that its own context has in training (``known``): whoever is
        answered by it knows no more. A network for all contexts answers among all.
        """
        classes_KC = self.classes_KC if known else None
        return Answers.of(networks, self.data, classes_KC, self.objective.read)

    def quality(self, networks: Sequence[nn.Module], answering_S: Tensor, known: bool = True) -> Quality:
        """The task's own metric where network ``answering_S[i]`` answers test sample i."""
        return self.judge(partial(self.answers(networks, known).chosen, answering_S))

    def judge(self, answered: Callable[[Tensor], Tensor]) -> Quality:
        """The task's own metric of any way to answer test samples, given by their numbers ``[B]``."""

        def outputs(split: str, k: int, index: Tensor | None = None) -> Tensor:  # noqa: ARG001
            return answered(torch.arange(len(self.data.test)) if index is None else index)

        found = self.objective.evaluate(outputs, self.data, self.partition)
        means = {metric.name: metric.value for metric in found if not metric.ticket}
        known = (name for name, info in METRICS.items() if info.primary and name in means)
        name = next(known, next(iter(means)))
        return name, means.get(f"{name}_open", means[name])  # among all classes, where contexts have others

    def save(self, tickets: TicketModel, folder: Path, name: str) -> Path:
        """Write tickets into ``folder/seedN``, with what `tombola predict` needs to know of their inputs.

        A router or a calibration of the same tickets in a file that is there already stays in it, unless
        these tickets bring another one.
        """
        tickets.metadata["experiment"] = self.order.experiment.name
        tickets.metadata["input"] = described(self.data, self.objective)
        file = folder / self.path.name / f"{name}.tickets"
        if file.is_file():
            take_over(tickets, load(file, self.backbone))
        tickets.save(file)
        return file


@dataclass(frozen=True)
class Answers:
    """Outputs of K networks on all samples of the test split, ``[K, S, ...]``, asked once.

    ``classes_KC``: which classes network k may answer with; None for all.
    """

    outputs_KS: Tensor
    classes_KC: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        networks: Sequence[nn.Module],
        data: Data,
        classes_KC: Tensor | None = None,
        read: Callable[[Any], Tensor] = part_of,
    ) -> Self:
        """Ask each network for every sample of the test split; ``read`` is the part of its outputs."""
        S = len(data.test)
        one = predict(networks[0], data, "test", torch.arange(1), read=read)
        kept = _space((len(networks), S, *one.shape[1:]), one.dtype)
        for row, network in zip(kept, networks, strict=True):
            for index in torch.arange(S).split(16 if one[0].numel() > LARGE else 500):
                row[index] = predict(network, data, "test", index, read=read)
        return cls(kept, classes_KC)

    def chosen(self, answering_S: Tensor, samples: Tensor) -> Tensor:
        """Answers to these samples ``[B, ...]``, sample i by network ``answering_S[i]``."""
        who = answering_S[samples]
        found = self.outputs_KS[who, samples]
        return found if self.classes_KC is None else mask_logits(found, self.classes_KC[who])

    def mixed(self, routed: Routed, samples: Tensor) -> Tensor:
        """Answers to these samples by the two likeliest tickets, weighed (`tombola.routing.mixed`)."""
        scores_BK, familiarity_B = routed.scores_BK[samples], routed.familiarity_B[samples]
        likeliest = replace(routed, scores_BK=scores_BK, familiarity_B=familiarity_B).likeliest(2)
        who = [torch.tensor([routed.tickets.index(name) for name in names]) for names, _ in likeliest]
        outputs = [self.outputs_KS[k, samples] for k in who]
        classes = [None if self.classes_KC is None else self.classes_KC[k] for k in who]
        return mixed(outputs, [share_B for _, share_B in likeliest], classes)


def _space(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for a tensor: memory, or a file without a name that goes when the tensor does."""
    if prod(shape) * dtype.itemsize <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    kept = torch.empty(0, dtype=dtype).numpy().dtype
    with tempfile.TemporaryFile() as file:  # the mapping outlives the name and the handle
        return torch.from_numpy(np.memmap(file, kept, "w+", shape=shape))


def open_run(path: Path, source: str | None = None) -> LoadedRun:
    """A run directory with its data, which must be those that it was made with."""
    return next(open_runs([path], source))


def open_runs(paths: Iterable[Path], source: str | None = None) -> Iterator[LoadedRun]:
    """Runs one after another; data that the next has in common with the one before are read once."""
    before: tuple[Any, ...] = ()
    items: dict[str, Data] = {}
    for path in paths:
        order, seed, item = order_of(path)
        order = replace(order, source=source or order.source)
        of = order.experiment
        key = of.name, of.options, order.source, order.augment, order.tune
        if key != before:
            before, items = key, order.load()
        yield _opened(path, order, seed, item, items)


def _opened(path: Path, order: Order, seed: int, item: str, items: Mapping[str, Data]) -> LoadedRun:
    if item not in items:
        raise RunError(f"{path} is of {item!r}, which is not in {order.source or 'its data'}")
    data, config = items[item], read_config(path)
    found = io.digest({f"{s}.{name}": t for s in SPLITS for name, t in data.split(s).fingerprint().items()})
    # Runs from before partitions were hashed by themselves hash their data in another way: no comparison.
    if "partition" in config and found != config.get("data"):
        raise RunError(f"{path} was made with other data than {order.source or 'those that ship with it'}")
    experiment, preset = names_of(path, config)
    name = f"{experiment}/{item}" if item else experiment
    return LoadedRun(path, name, preset, seed, order, data, order.experiment.partition(data))
