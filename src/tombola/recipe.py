"""How to train: optimiser, learning rate and its course, batch size.

The rate of a step is a function of the step alone, so a training that was interrupted has nothing to
restore but the step. The courses are those of torch's own schedulers in closed form: ``cosine`` of
``CosineAnnealingLR``, ``step`` of ``MultiStepLR``, the warm-up of ``LinearLR``, one after the other by
``SequentialLR``. (Theirs are recursions with a state, which round differently after an interruption.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tombola._utils.errors import OptimizerError, UsageError
from tombola._utils.validation import check_fields
from tombola.optim import MaskedOptimizer, masked

FALL = 0.1  # of the rate at each place of a ``step`` course


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        optimizer: names a class of ``torch.optim``; it is masked (`tombola.optim`).
        lr: the learning rate.
        batch_size: samples per step, even.
        lr_schedule: the learning rate over a phase: ``constant``, ``cosine`` (to zero at its end) or
            ``step:S1,S2,...`` (a tenth of itself from each of these shares of the phase on).
        options: arguments of the optimiser.
        warmup: share of the phase in which the rate rises to ``lr`` in a line; the course has the rest.

    Raises:
        UsageError: a number or a course that makes no sense, or no optimiser of torch.
    """

    optimizer: str = "Adam"
    lr: float = 1e-3
    batch_size: int = 128
    lr_schedule: str = "constant"
    options: dict[str, Any] = field(default_factory=dict)
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(getattr(torch.optim, self.optimizer, None), type):
            raise UsageError(f"torch.optim has no optimiser {self.optimizer!r}")
        if self.batch_size < 2 or self.batch_size % 2:
            raise UsageError(f"batch_size must be even and at least 2: got {self.batch_size}")
        if self.lr_schedule not in ("constant", "cosine"):
            falls(self.lr_schedule)
        if not 0 < self.lr < math.inf:
            raise UsageError(f"the learning rate lr must be positive: got {self.lr}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is a share of the phase, in [0, 1): got {self.warmup}")

    def build(self, parameters: list[Tensor]) -> MaskedOptimizer:
        """The masked optimiser over these parameters."""
        kind = getattr(torch.optim, self.optimizer)
        try:
            return masked(kind(parameters, lr=self.lr, **self.options))
        except (TypeError, ValueError) as error:
            raise OptimizerError(f"{self.optimizer}: {error}") from None

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step out of ``steps``, counted from 0.

        >>> [round(TrainConfig(lr=1.0, lr_schedule="step:0.5,0.75").rate(t, 4), 4) for t in range(4)]
        [1.0, 1.0, 0.1, 0.01]
        >>> [TrainConfig(lr=1.0, warmup=0.5).rate(t, 6) for t in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        step, steps = step - rising, steps - rising
        if self.lr_schedule == "constant":
            return self.lr
        if self.lr_schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * step / steps)) / 2
        return self.lr * FALL ** sum(step >= round(share * steps) for share in falls(self.lr_schedule))

    def tail(self, lr: float) -> TrainConfig:
        """The same at one learning rate from beginning to end: what fine-tuning goes on with."""
        return replace(self, lr=lr, lr_schedule="constant", warmup=0.0)


Recipe = TrainConfig  # its former name


def falls(lr_schedule: str) -> tuple[float, ...]:
    """The shares of a phase at which a ``step`` course falls.

    Raises:
        UsageError: it is no course.

    >>> falls("step:0.5,0.75")
    (0.5, 0.75)
    """
    name, _, given = lr_schedule.partition(":")
    try:
        shares = tuple(map(float, given.split(","))) if name == "step" else ()
    except ValueError:
        shares = ()
    if not shares or not all(0 < share < 1 for share in shares) or sorted(set(shares)) != list(shares):
        raise UsageError(
            "lr_schedule is 'constant', 'cosine' or 'step:S1,S2,...', shares of the phase between 0 and 1 "
            f"that rise: got {lr_schedule!r}"
        )
    return shares
