"""A task of one's own from two functions: a loss, and what is measured."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from numbers import Real
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch
from tombola._utils.errors import UsageError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.metrics import METRICS, SHIPPED, of_own
from tombola.objectives.objective import InSubset, Metric, Predict, means_and_each

Better = Literal["higher", "lower"]


class Custom(InSubset):
    """Whatever two functions say, each ticket on its own subset.

    Args:
        loss: ``loss(net, batch, ticket)``, the loss of a batch, a scalar. ``net`` is the network with the
            weights of the ticket, a module that may be called as often as wished (``net(x)``, ``net(**x)``,
            ``net.encode(x)``); ``batch`` is the pair of inputs, as `Data` gives them, and targets, rows of
            ``y``; ``ticket`` is the name of the subset, or ``all`` for one network for all of them. What it
            draws from torch's global generator is a function of the seed.
        metrics: ``metrics(outputs, targets, ticket)``, numbers by name, of the test samples of a subset
            all at once: what the network gives for their inputs alone, and their ``y``. NaN is left out.
        better: for each metric whether ``higher`` or ``lower`` values are better. Higher where nothing is
            said, with a warning. `register_metric` says more: labels, digits.
        output: see `Objective`; what ``metrics`` gets, while ``loss`` calls the network itself.

    Tickets cannot be trained as one batch (``parallel="batched"``), nor routed by what their outputs say.

    Raises:
        UsageError: no functions, or a direction that contradicts that of a metric of Tombola.

    >>> def loss(net, batch, ticket):
    ...     x, y = batch
    ...     return (net(x) - net(x + 0.1 * torch.randn_like(x))).square().mean()
    >>> def metrics(outputs, targets, ticket):
    ...     return {"largest": float(outputs.abs().max())}
    >>> task = Custom(loss, metrics, better={"largest": "lower"})
    >>> METRICS.pop("largest").higher_is_better
    False
    """

    calls_network = True

    def __init__(
        self,
        loss: Callable[[nn.Module, tuple[Batch, Tensor], str], Tensor],
        metrics: Callable[[Any, Tensor, str], Mapping[str, float]],
        *,
        better: Mapping[str, Better] | None = None,
        output: str | int | None = None,
    ) -> None:
        super().__init__(output=output)
        for name, given, arguments in (
            ("loss", loss, "net, batch, ticket"),
            ("metrics", metrics, "outputs, targets, ticket"),
        ):
            if not callable(given) or not _takes(given, arguments.count(",") + 1):
                raise UsageError(f"{name} must be a function of ({arguments}): got {given!r}")
        self._loss, self._metrics = loss, metrics
        self._names: tuple[str, ...] = ()  # of the tickets of the data that it is `of`
        if better is not None and not isinstance(better, Mapping):
            raise UsageError(f"better says it of each metric, {{'mae': 'lower'}}: got {better!r}")
        for name, direction in (better or {}).items():
            _declare(name, direction)

    def of(self, data: Data, partition: Partition) -> Self:  # noqa: ARG002
        """Knowing the names of the tickets."""
        bound = copy.copy(self)
        bound._names = partition.names
        return bound

    def choices(self) -> dict[str, str]:
        """The name of the loss."""
        return {"loss": getattr(self._loss, "__qualname__", type(self._loss).__name__)}

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The rows of ``y``."""
        return data.train.y[index]

    def loss_of(self, network: nn.Module, x: Batch, targets: Tensor, k: int) -> Tensor:
        """The user's loss."""
        found: object = self._loss(network, (x, targets), self._names[k])
        if not isinstance(found, Tensor) or found.ndim or not found.is_floating_point():
            got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(f"loss must return a scalar tensor, such as a mean over the batch: got {got}")
        if torch.is_grad_enabled() and not found.requires_grad:
            raise UsageError(
                "loss returns a number that does not depend on the network's weights: compute it of net(x), "
                "outside of torch.no_grad and detach"
            )
        return found

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """None of outputs alone: it is `loss_of`."""
        raise UsageError("the loss of Custom calls the network itself: there is none of outputs alone")

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """The user's metrics, per ticket and their mean."""
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for _, ticket, index, outputs in self.by_subset(predict, partition):
            found: object = self._metrics(outputs, data.test.y[index], ticket)
            if not isinstance(found, Mapping) or not found or not all(isinstance(n, str) for n in found):
                raise UsageError(f"metrics must return numbers by name, {{'mae': 0.5}}: got {found!r}")
            for name, value in found.items():
                number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
                if not isinstance(number, Real):
                    raise UsageError(f"metric {name!r} must be one number: got {type(value).__name__}")
                values[name][ticket] = float(number)
        return means_and_each(values)


def _takes(function: Callable[..., Any], arguments: int) -> bool:
    try:
        signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:  # a function of C says nothing
        return True
    return True


def _declare(name: str, better: object) -> None:
    if better not in ("higher", "lower"):
        raise UsageError(f"better says higher or lower of each metric: got {better!r} for {name!r}")
    higher, known = better == "higher", METRICS.get(name)
    if known is None or (known.higher_is_better != higher and name not in SHIPPED):
        METRICS[name] = replace(known or of_own(name), higher_is_better=higher)
    elif known.higher_is_better != higher:
        raise UsageError(
            f"{name} is a metric of Tombola, and {better} is not better: give yours another name"
        )
