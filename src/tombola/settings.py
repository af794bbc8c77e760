"""All that a method can be told, in one place that a run can write down.

What is written in one word (``fraction:0.2``) can be given as an object too (``schedules.Fraction(0.2)``):
the word is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from numbers import Real
from typing import Any, get_args

import numpy as np
import torch
import yaml
from torch import Tensor

from tombola._utils import spec
from tombola._utils.errors import OptimizerError, UsageError, unknown
from tombola._utils.renamed import renewed, renewed_changes, takes_former_names
from tombola._utils.spec import Spec
from tombola._utils.validation import check_fields, check_kind
from tombola.masks.reference import check as check_reference
from tombola.optim import MaskedOptimizer, masked
from tombola.pruning import SELECTIONS, schedules, scores
from tombola.pruning.granularity import Granularity
from tombola.pruning.granularity import parse as parse_granularity
from tombola.training import rewind
from tombola.training.callbacks import rules
from tombola.training.callbacks.dynamic_sparse import Moving
from tombola.training.callbacks.learned import Learned
from tombola.training.norm import Policy

PRECISIONS = "float32", "bfloat16"
FALL = 0.1  # of the rate at each place of a `Step` course


@dataclass(frozen=True)
class LRSchedule(Spec):
    """Base of the courses of the learning rate: factors on it, functions of the step alone.

    So a training that was interrupted has nothing to restore but the step. They are torch's own schedulers in
    closed form; those are recursions with a state, which round differently after an interruption.
    """

    form = "constant"

    def __call__(self, step: int, steps: int) -> float:  # noqa: ARG002
        """The factor at a step out of ``steps``, counted from 0."""
        return 1.0


class Constant(LRSchedule):
    """The same rate throughout."""


class Cosine(LRSchedule):
    """Along a cosine to zero, as torch's ``CosineAnnealingLR``."""

    form = "cosine"

    def __call__(self, step: int, steps: int) -> float:
        """The factor at a step."""
        return (1 + math.cos(math.pi * step / steps)) / 2


@dataclass(frozen=True)
class Step(LRSchedule):
    """A tenth of itself from each of these shares of the phase on, as torch's ``MultiStepLR``.

    >>> [round(Step((0.5, 0.75))(t, 4), 4) for t in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    form = "step:{shares}"
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(0 < s < 1 for s in self.shares) or sorted(set(self.shares)) != list(self.shares):
            raise UsageError(f"shares of the phase lie between 0 and 1 and rise: got {self.shares}")

    def __call__(self, step: int, steps: int) -> float:
        """The factor at a step."""
        return FALL ** sum(step >= round(share * steps) for share in self.shares)


@cache
def parse_lr_schedule(lr_schedule: str | Spec) -> LRSchedule:
    """A course from its text, or itself.

    >>> parse_lr_schedule("step:0.5,0.75")
    Step(shares=(0.5, 0.75))
    """
    kinds: tuple[type[LRSchedule], ...] = (Constant, Cosine, Step)
    return spec.parse(lr_schedule, kinds, "lr_schedule")


@takes_former_names
@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        optimizer: names a class of ``torch.optim``; it is masked (`tombola.optim`).
        lr: the learning rate.
        batch_size: samples per step, even.
        lr_schedule: the learning rate over a phase: ``constant``, ``cosine`` or ``step:S1,S2,...``
            (`Constant`, `Cosine`, `Step`).
        options: arguments of the optimiser.
        warmup: share of the phase in which the rate rises to ``lr`` in a line; the course has the rest.
        precision: of products in forward and backward passes: ``float32``, which is that of the network, or
            ``bfloat16`` (torch's autocast). Weights, gradients and moments keep the dtype of the network.

    Raises:
        UsageError: a number, a course or a precision that makes no sense, or no optimiser of torch.
    """

    optimizer: str = "Adam"
    lr: float = 1e-3
    batch_size: int = 128
    lr_schedule: str | LRSchedule = "constant"
    options: dict[str, Any] = field(default_factory=dict)
    warmup: float = 0.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision is {' or '.join(PRECISIONS)}: got {self.precision!r}")
        if not isinstance(getattr(torch.optim, self.optimizer, None), type):
            raise UsageError(f"torch.optim has no optimiser {self.optimizer!r}")
        if self.batch_size < 2 or self.batch_size % 2:
            raise UsageError(f"batch_size must be even and at least 2: got {self.batch_size}")
        parse_lr_schedule(self.lr_schedule)
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

        >>> [TrainConfig(lr=1.0, warmup=0.5).rate(t, 6) for t in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        return self.lr * parse_lr_schedule(self.lr_schedule)(step - rising, steps - rising)

    def passes(self, device: torch.device) -> AbstractContextManager[object]:
        """Inside, passes are computed in `precision`."""
        if self.precision == "float32":
            return nullcontext()  # an autocast that is switched off would switch off one around it
        return torch.autocast(device.type, torch.bfloat16)

    def tail(self, lr: float) -> TrainConfig:
        """The same at one learning rate from beginning to end: what fine-tuning goes on with."""
        return replace(self, lr=lr, lr_schedule="constant", warmup=0.0)


Recipe = TrainConfig  # its former name


@takes_former_names
@dataclass(frozen=True)
class Settings:
    """How tickets are searched for and trained.

    Budgets are counted in batches *per ticket*. A method that trains one network for all K subsets
    gets K times as many, so that every method sees the same number of samples.

    Attributes:
        sparsity: shares of weights removed at which tickets are retrained and judged, in one nested
            search.
        schedule: densities of the search: ``one_shot``, ``fraction:P``, ``fixed_count:N``, ``cubic:N``,
            ``geometric:N`` or ``explicit:S1,S2,...`` (`tombola.schedules`).
        T: training steps per ticket and round of Algorithm 1.
        steps: batches per ticket of Algorithm 2; 0 leaves the tickets where it would start, for a loop of
            your own.
        rewind: dense training steps per ticket before the rewind point (0: rewind to theta0).
        rewind_task: what these steps train tickets for: ``own`` (each its own task, on the shared weights) or
            ``single`` (the task of one network for all data, which the baselines start from anyhow).
        rewinding: what is put back after pruning: ``weights``, ``learning_rate`` (weights stay) or
            ``fine_tune`` (both stay); `tombola.training.rewind` says what becomes of the rest.
        first: a score that draws the first mask before any training, to the first density of the schedule;
            the search goes on from there (hybrids). Empty: there is no such mask.
        callback: what happens while a round trains: ``early_bird:THRESHOLD:PATIENCE[:EVERY]``,
            ``set:SHARE:EVERY``, ``rigl:SHARE:EVERY`` or ``learned:LR[:WEIGHTS]``, with weights ``free`` or
            ``frozen`` (`tombola.training.callbacks.rules`); nothing if empty. With ``set`` and ``rigl`` the
            schedule is one round that prunes nothing, so ``first`` draws the mask that moves. With
            ``learned`` masks are cut by scores of their own, and ``score`` says nothing.
        nested: one search serves all sparsities, each going on from the one before; else every sparsity has
            a search of its own from the dense network.
        search: how Algorithm 1 trains.
        train: how Algorithm 2 trains, and the way to the rewind point.
        score: what the search prunes by: the name of a criterion of `tombola.scoring`, with ``:N`` the
            batches per ticket that it reads (``snip:5``).
        selection: which layers lose how many: ``global``, ``layer``, ``uniform``, ``erk`` or ``row``.
        granularity: what goes together: ``weight``, ``channel``, ``block:RxC`` or ``N:M``
            (`tombola.pruning`).
        floor: so many weights (or groups) every layer keeps.
        form: of Algorithm 2: ``sequential`` or ``simultaneous``.
        shares: of the batches of Algorithm 2: ``equal``, or by ``size`` of the subsets with the same sum
            (``sequential`` only).
        weights: ``free``, or ``frozen``: Algorithm 2 leaves weights in scope as they are and trains all else.
            With ``normalization=per_ticket`` and ``private=("*bias",)`` every ticket retrains its own norms
            and biases alone (PERP, Zimmer et al., arXiv 2312.15230).
        normalization: ``shared``, ``per_ticket_statistics``, ``per_ticket`` or ``frozen``
            (`tombola.training.norm`).
        private: names or globs of further parameters that every ticket keeps for itself.
        statistics: training batches from which norm statistics are estimated.
        include, exclude: names or globs of the scope (`tombola.masks.prunable`).
        reference: what weights are that a ticket does not keep: ``zero``, or ``theta0``, what they were in
            the given network (`tombola.masks.reference`). Then masks are of the change, and so is magnitude.
        adapters: the rank of a change of each weight in scope that every ticket has to itself, beside the
            weights that it shares (`tombola.masks.low_rank`); 0 for none.
        head: the layer, or weight, that computes the outputs and is not in the scope by default; found from
            what the outputs depend on where it is not named. ``none``: there is none.
    """

    sparsity: tuple[float, ...] = (0.25, 0.5, 0.75)
    schedule: str | schedules.Schedule = "fraction:0.2"
    T: int = 100
    steps: int = 500
    rewind: int = 0
    rewind_task: str = "own"
    rewinding: str = "weights"
    first: str | scores.Criterion = ""
    callback: str | Spec = ""
    nested: bool = True
    search: TrainConfig = field(default_factory=TrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: str | scores.Criterion = "magnitude"
    selection: str = "global"
    granularity: str | Granularity = "weight"
    floor: int = 0
    form: str = "sequential"
    shares: str = "equal"
    weights: str = "free"
    normalization: str = "per_ticket_statistics"
    private: tuple[str, ...] = ()
    statistics: int = 10
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    head: str = ""
    reference: str = "zero"
    adapters: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        given: tuple[object, ...] = self.sparsity
        for value in given:
            if not isinstance(value, Real):
                raise UsageError(f"a sparsity is a number from 0 to 1: got {value!r}")
            schedules.kept(1, float(value))
        if not self.sparsity:
            raise UsageError("at least one sparsity is needed")
        if len(set(self.sparsity)) < len(self.sparsity):
            raise UsageError(f"each sparsity is needed once: got {', '.join(map(str, self.sparsity))}")
        schedules.parse(self.schedule)
        parse_granularity(self.granularity)
        for name, choices in (
            ("selection", SELECTIONS),
            ("form", ("sequential", "simultaneous")),
            ("shares", ("equal", "size")),
            ("rewind_task", ("own", "single")),
            ("weights", ("free", "frozen")),
            ("rewinding", rewind.KINDS),
            ("normalization", get_args(Policy)),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {' or '.join(map(str, choices))}: got {getattr(self, name)!r}")
        for name, least in (
            ("T", 0),
            ("steps", 0),
            ("rewind", 0),
            ("statistics", 1),
            ("floor", 0),
            ("adapters", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}: got {getattr(self, name)}")
        if self.shares == "size" and self.form == "simultaneous":
            raise UsageError("form=simultaneous steps all tickets at once: shares=size needs form=sequential")
        if scores.parse(self.score).trajectory and not self.T:
            raise UsageError(f"score {self.score!r} sums over training steps, so T must be at least 1: got 0")
        if self.first and scores.parse(self.first).trajectory:
            raise UsageError(f"first {self.first!r} sums over training steps, but comes before any")
        if rules.parse(self.callback) and not self.T:
            raise UsageError(f"callback {self.callback!r} needs training steps: T must be at least 1, got 0")
        if self.moving and not (self.first and self.granularity == "weight" and not self.nested):
            raise UsageError(
                f"callback {self.callback!r} moves a mask of single weights: set first=random (or another "
                "score), granularity=weight and nested=false as well"
            )
        if check_reference(self.reference) == "theta0" and (self.learned or self.first):
            raise UsageError(
                "with reference=theta0 the change begins at zero, which no mask can be learned or drawn from "
                "before training: leave callback=learned and first out"
            )
        if self.learned and str(self.score) != "magnitude":
            raise UsageError(
                f"callback {self.callback!r} cuts masks by scores of its own: leave score at magnitude, got "
                f"{str(self.score)!r}"
            )

    def steps_to(self, size: int, keep: int) -> int:
        """Training steps per ticket of all rounds of a search from ``size`` weights to ``keep``, at least 1.

        >>> Settings(schedule="fraction:0.5", T=10).steps_to(100, 25)
        20
        """
        return max(self.T * len(schedules.parse(self.schedule)(size, [keep])), 1)

    @property
    def moving(self) -> bool:
        """Whether masks move while they train."""
        return isinstance(rules.parse(self.callback), Moving)

    @property
    def learned(self) -> Learned | None:
        """The rule by which masks are learned, if they are."""
        rule = rules.parse(self.callback)
        return rule if isinstance(rule, Learned) else None

    @property
    def frozen(self) -> bool:
        """Whether weights in scope stay as they are while masks are learned, and in Algorithm 2."""
        return self.learned is not None and self.learned.weights == "frozen"

    def plain(self) -> dict[str, Any]:
        """Nested dictionaries and lists that YAML and JSON can hold."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def changed(self, changes: Iterable[str]) -> Settings:
        """The same with changes written ``name=value`` or ``train.name=value``, values as in YAML.

        >>> Settings().changed(["T=7", "train.lr=0.01", "sparsity=[0.5]"]).train.lr
        0.01
        """
        plain = self.plain()
        for change in renewed_changes(changes):
            name, equals, value = change.partition("=")
            *parents, last = name.split(".")
            place: Any = plain
            for parent in parents:
                place = place.get(parent) if isinstance(place.get(parent), dict) else {}
            if not equals:
                raise UsageError(f"a change of a setting is written NAME=VALUE: got {change!r}")
            if isinstance(place.get(last), dict) and last != "options":
                each = ", ".join(f"{name}.{key}" for key in place[last])
                raise UsageError(f"{name} is a group: set {each}")
            if last not in place:
                known = [*plain, *(f"{part}.{key}" for part in ("search", "train") for key in plain[part])]
                if not parents and last in plain["train"]:
                    raise UsageError(f"{name} belongs to a group: set search.{name} or train.{name}")
                raise UsageError(unknown("setting", name, known))
            try:
                new = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UsageError(f"the value of {name} is not understood: {value!r}") from None
            old = place[last]
            if isinstance(old, int | float) and isinstance(new, str):
                with suppress(ValueError):  # 1e9, nan: to YAML these are text
                    new = float(new)
            if isinstance(old, list) and new is not None and not isinstance(new, list):
                new = [new]
            place[last] = new = "" if new is None and isinstance(old, str) else new
            check_kind(name, new, old)
        try:
            return Settings.from_plain(plain)
        except (TypeError, AttributeError) as error:
            raise UsageError(f"a changed setting has the wrong type: {error}") from None

    @classmethod
    def from_plain(cls, stored: dict[str, Any]) -> Settings:
        """The inverse of `plain`."""
        stored = renewed(stored)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**{**values, **{part: TrainConfig(**stored[part]) for part in ("search", "train")}})


def settings_of(
    settings: Settings | None, sparsity: float | Sequence[float] | None, changes: dict[str, Any]
) -> Settings:
    """Settings from the three ways in which calls give them; `UsageError` for a field that does not exist."""
    if settings is not None and not isinstance(settings, Settings):
        raise UsageError(f"settings must be a tombola.Settings: got {type(settings).__name__}")
    known = [field.name for field in fields(Settings)]
    for name in changes:
        if name in [field.name for field in fields(TrainConfig)]:
            raise UsageError(
                f"{name} belongs to a TrainConfig: pass train=tb.TrainConfig({name}=...), or search="
            )
        if name not in known:
            raise UsageError(unknown("setting", name, [*known, "seed", "out", "parallel", "progress"]))
    if sparsity is None:
        sparsity = settings.sparsity if settings else 0.75
    several = isinstance(sparsity, Sequence) and not isinstance(sparsity, str)
    given: tuple[Any, ...] = tuple(sparsity) if several else (sparsity,)  # type: ignore[arg-type]
    wanted = tuple(float(s) if isinstance(s, Real) else s for s in given)  # NumPy's cannot be written down
    return replace(settings or Settings(), sparsity=wanted, **changes)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
