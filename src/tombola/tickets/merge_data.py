"""What data add to merged fine-tunes: choices on validation data, figures on test data, retraining.

Shape letters: K tasks, N weights in scope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils import batch
from tombola._utils.device import device_of
from tombola._utils.errors import DataError, UsageError
from tombola._utils.replica import copied
from tombola.data import prepare
from tombola.data.dataset import SPLITS, Data, Split
from tombola.data.partition import Partition
from tombola.data.stored import Stored
from tombola.masks.reference import Change
from tombola.objectives import Objective
from tombola.objectives.metrics import metric_info
from tombola.settings import Settings, TrainConfig
from tombola.tickets.checkpoints import FineTunes
from tombola.tickets.finish import finish
from tombola.tickets.merge_methods import Changes, Choice, Merged
from tombola.tickets.model import TicketModel
from tombola.tickets.quality import quality, whole
from tombola.training.checks import check_fit, check_kinds
from tombola.training.joint import train_jointly
from tombola.training.model import FunctionalModel, Params
from tombola.training.trainer import Problem

FACTORS = (1.0, 0.5, 0.65, 0.8, 1.25, 1.5, 2.0)  # on a scale; of equals the first is taken


@dataclass(frozen=True)
class Judge:
    """Networks of tasks, judged on the data of each.

    Attributes:
        network: takes the weights of what is judged.
        data: by task.
        objective: that of all tasks.
    """

    network: nn.Module
    data: Mapping[str, Data]
    objective: Objective

    @classmethod
    def of(cls, base: nn.Module, tasks: list[str], data: Mapping[str, Data], objective: object) -> Judge:
        """A judge of fine-tunes.

        Raises:
            UsageError: data of other tasks, or an objective that asks for the task.
            DataError: data that the network does not take.
        """
        if not isinstance(data, Mapping) or set(data) != set(tasks):
            raise UsageError(f"data are given for each task, {{task: Data}}: {', '.join(tasks)}")
        network = copied(base).eval()
        for name in tasks:
            one: Any = data[name]
            check_kinds(network, objective, one, whole(one, name) if isinstance(one, Data) else None, 0)
            assert isinstance(objective, Objective)
            if objective.context_is_answer:
                raise UsageError(
                    f"{type(objective).__name__} asks which task a sample is of, and fine-tunes know their "
                    "own: take an objective within tasks (Classification, Regression, ...)"
                )
            try:
                check_fit(network, one, whole(one, name), objective.read)
            except DataError as error:
                raise DataError(f"data of {name!r}: {error}") from None
        assert isinstance(objective, Objective)
        return cls(network, {name: data[name] for name in tasks}, objective)

    def quality(self, task: str, split: str, network: nn.Module | None = None) -> tuple[str, float]:
        """Name and value of the first metric of the objective on a split of a task's data."""
        network = network or self.network
        outputs = partial(batch.call, network)
        found = quality(outputs, task, self.data[task], self.objective, device_of(network), split)
        return next(iter(found.items()))

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Set tensors of the network that is judged."""
        held = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        with torch.no_grad():
            for name, t in tensors.items():
                held[name].copy_(t.view_as(held[name]))

    def fine_tune(self, tunes: FineTunes, task: str) -> None:
        """Take the weights of a checkpoint."""
        for name in (*tunes.scope.names, *tunes.own):
            self.put({name: tunes.read[task](name)})

    def merged(self, tunes: FineTunes, merged: Merged, k: int, scale: float) -> float:
        """The metric of a task's merged network on its validation data, negative where less is better."""
        scope = tunes.scope
        for name, start, end in zip(scope.names, scope.bounds, scope.bounds[1:], strict=False):
            change_n = merged.masks_KN[k, start:end] * merged.change_N[start:end]
            self.put({name: tunes.held[name].flatten() + scale * change_n})
        name, value = self.quality(list(tunes.read)[k], "validation")
        return -math.inf if math.isnan(value) else signed(name, value)


def signed(metric: str, value: float) -> float:
    """A value of a metric, negative where less is better; of such a one the value."""
    return value if metric_info(metric).higher_is_better else -value


def choose(judge: Judge, tunes: FineTunes, merged: Merged) -> list[float]:
    """Choose λ, then the scale, on validation data; the values of the metric there, by task (`signed`).

    Each task has its own, but for one network for all, whose factor is chosen by the mean over tasks. Of
    equals the choice without data is taken, then what is nearest to the fine-tune.
    """
    tasks, changes = list(tunes.read), Changes(tunes)
    own = [tunes.private(name) for name in tasks]

    def value(k: int, choice: Choice) -> float:
        merged.choose(changes, k, choice)
        judge.put(own[k])
        return judge.merged(tunes, merged, k, choice.scale)

    if merged.common:
        lam, scale = merged.choices[0][0]
        tried = [Choice(lam, factor * scale) for factor in FACTORS]
        values_KC = [[value(k, choice) for choice in tried] for k in range(len(tasks))]
        best = max(range(len(tried)), key=lambda c: sum(row[c] for row in values_KC))
        for k in range(len(tasks)):
            merged.choose(changes, k, tried[best])
        return [row[best] for row in values_KC]
    found = []
    for k in range(len(tasks)):
        near = merged.choices[k]
        values = [value(k, choice) for choice in near]
        choice = near[values.index(max(values))]
        scaled = [choice._replace(scale=factor * choice.scale) for factor in FACTORS]
        values = [max(values), *(value(k, other) for other in scaled[1:])]
        merged.choose(changes, k, scaled[values.index(max(values))])
        found.append(max(values))
    return found


# -- joint retraining ---------------------------------------------------------------------------------------


def retrained(
    tickets: TicketModel,
    data: Mapping[str, Data],
    objective: Objective,
    steps: int,
    config: TrainConfig,
    seed: int,
) -> TicketModel:
    """Merged tickets after Algorithm 2: the shared change under its masks, and what each has for itself.

    Scales are trained as well, one per matrix and task. Norm statistics are estimated afresh. What neither
    masks nor tickets own stays as it is.
    """
    one, partition = together({name: data[name] for name in tickets.names})
    network, scales = copied(tickets.backbone), []
    for name, module in network.named_modules():
        if isinstance(module, Change):
            start = module.scale.detach().clone()
            del module.scale
            module.register_parameter("scale", nn.Parameter(start))
            scales.append(f"{name}.scale")
    own = {*tickets.private.names, *scales}
    if strange := [n for n in tickets.statistics.names if n not in scales and ".running_" not in f".{n}"]:
        raise UsageError(f"fine-tunes differ in {strange[0]}, which is not trained: leave steps out")
    for n, p in network.named_parameters():
        p.requires_grad_(n in own or n in tickets.scope.names)
    f = FunctionalModel(network, tickets.scope, own)
    problem = Problem(f, one, partition, objective.of(one, partition), config, seed)
    start0, states = f.theta0(), [tickets.private_state(name) for name in tickets.names]
    private = [f.private.flatten(state).to(f.device).requires_grad_() for state in states]
    theta0 = Params(start0.weights_N, start0.shared_R, private, start0.buffers)
    trained = train_jointly(problem, theta0, tickets.masks, steps)
    made = finish(problem, trained, tickets.masks, range(len(tickets)), Settings(), {})
    backbone = copied(tickets.backbone)
    with torch.no_grad():
        changes = dict(backbone.named_parameters())
        for name, change in tickets.scope.unflatten(trained.weights_N.detach()).items():
            changes[name].copy_(change)
    states = [{**s, **made.private_state(n)} for n, s in zip(tickets.names, states, strict=True)]
    return TicketModel(
        backbone, tickets.masks, dict(zip(tickets.names, states, strict=True)), tickets.metadata
    ).eval()


def together(data: Mapping[str, Data]) -> tuple[Data, Partition]:
    """Data of several tasks as one, and the partition by task.

    Raises:
        DataError: data that are read from disk, inputs of other shapes, or prepared in another way.
    """
    names, every = list(data), list(data.values())
    for name, one in data.items():
        if isinstance(one.train.x, Stored) or one.contexts is not None:
            raise DataError(
                f"data of {name!r} are not in memory: joint retraining takes arrays (memory=True)"
            )
        if prepare.described(one.prepare) != prepare.described(every[0].prepare) or (
            one.augment is not every[0].augment
        ):
            raise DataError(
                f"data of {name!r} are prepared otherwise than those of {names[0]!r}: prepare alike"
            )
    parts, members = {}, {}
    for split in SPLITS:
        splits = [one.split(split) for one in every]
        try:
            x = batch.mapped(lambda *ts: torch.cat(ts), *[part.x for part in splits])
            y = torch.cat([part.y for part in splits])
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"data of {', '.join(names)} do not go into one ({reason}): give all samples one shape, such "
                "as one length, and one kind of target"
            ) from None
        parts[split] = Split(x, y)
        numbers = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([*map(len, splits)]))
        members[split] = numbers[:, None] == torch.arange(len(names))
    made = Data(parts["train"], parts["validation"], parts["test"], every[0].prepare, every[0].augment)
    return made, Partition(tuple(names), members)
