"""All that a method can be told, in one place that a run can write down."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import yaml

from tombola import pruning
from tombola._utils.errors import UsageError, unknown
from tombola._utils.validation import check_fields, check_kind
from tombola.pruning import scores
from tombola.pruning.schedules import kept, parse
from tombola.recipe import TrainConfig
from tombola.training import rewind
from tombola.training.callbacks import rules
from tombola.training.norm import check


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
        steps: batches per ticket of Algorithm 2.
        rewind: dense training steps per ticket before the rewind point (0: rewind to theta0).
        rewind_task: what these steps train tickets for: ``own`` (each its own task, on the shared weights) or
            ``single`` (the task of one network for all data, which the baselines start from anyhow).
        rewinding: what is put back after pruning: ``weights``, ``learning_rate`` (weights stay) or
            ``fine_tune`` (both stay); `tombola.training.rewind` says what becomes of the rest.
        first: a score that draws the first mask before any training, to the first density of the schedule;
            the search goes on from there (hybrids). Empty: there is no such mask.
        callback: what happens while a round trains: ``early_bird:E:P[:N]``, ``set:S:N`` or ``rigl:S:N``
            (`tombola.training.callbacks`); nothing if empty. With ``set`` and ``rigl`` the schedule is one
            round that prunes nothing, so ``first`` draws the mask that moves.
        nested: one search serves all sparsities, each going on from the one before; else every sparsity has
            a search of its own from the dense network.
        search: recipe of Algorithm 1.
        train: recipe of Algorithm 2, and of the way to the rewind point.
        score: what the search prunes by: the name of a criterion of `tombola.scoring`, with ``:N`` the
            batches that it reads (``snip:5``).
        selection: which layers lose how many: ``global``, ``layer``, ``uniform``, ``erk`` or ``row``.
        granularity: what goes together: ``weight``, ``channel``, ``block:RxC`` or ``N:M``
            (`tombola.pruning`).
        floor: so many weights (or groups) every layer keeps.
        form: of Algorithm 2: ``sequential`` or ``simultaneous``.
        shares: of the batches of Algorithm 2: ``equal``, or by ``size`` of the subsets with the same sum
            (``sequential`` only).
        normalization: ``shared``, ``per_ticket_statistics`` or ``per_ticket``.
        private: names or globs of further parameters that every ticket keeps for itself.
        statistics: training batches from which norm statistics are estimated.
        include, exclude: names or globs of the scope (`tombola.masks.prunable`).
    """

    sparsity: tuple[float, ...] = (0.25, 0.5, 0.75)
    schedule: str = "fraction:0.2"
    T: int = 100
    steps: int = 500
    rewind: int = 0
    rewind_task: str = "own"
    rewinding: str = "weights"
    first: str = ""
    callback: str = ""
    nested: bool = True
    search: TrainConfig = field(default_factory=TrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: str = "magnitude"
    selection: str = "global"
    granularity: str = "weight"
    floor: int = 0
    form: str = "sequential"
    shares: str = "equal"
    normalization: str = "per_ticket_statistics"
    private: tuple[str, ...] = ()
    statistics: int = 10
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        given: tuple[object, ...] = self.sparsity
        for value in given:
            if not isinstance(value, Real):
                raise UsageError(f"a sparsity is a number from 0 to 1: got {value!r}")
            kept(1, float(value))
        if not self.sparsity:
            raise UsageError("at least one sparsity is needed")
        if len(set(self.sparsity)) < len(self.sparsity):
            raise UsageError(f"each sparsity is needed once: got {', '.join(map(str, self.sparsity))}")
        parse(self.schedule)
        check(self.normalization)
        for name, choices in (
            ("selection", pruning.SELECTIONS),
            ("form", ("sequential", "simultaneous")),
            ("shares", ("equal", "size")),
            ("rewind_task", ("own", "single")),
            ("rewinding", rewind.KINDS),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {' or '.join(map(str, choices))}: got {getattr(self, name)!r}")
        pruning.granularity.parse(self.granularity)
        for name, least in (("T", 0), ("steps", 1), ("rewind", 0), ("statistics", 1), ("floor", 0)):
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

    @property
    def moving(self) -> bool:
        """Whether masks move while they train."""
        return isinstance(rules.parse(self.callback), rules.Moving)

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
        for change in changes:
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
                raise UsageError(unknown("setting", name, known))
            try:
                new = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UsageError(f"the value of {name} is not understood: {value!r}") from None
            old = place[last]
            if isinstance(old, int | float) and isinstance(new, str):
                with suppress(ValueError):  # 1e9, nan: to YAML these are text
                    new = float(new)
            place[last] = new = "" if new is None and isinstance(old, str) else new
            check_kind(name, new, old)
        try:
            return Settings.from_plain(plain)
        except (TypeError, AttributeError) as error:
            raise UsageError(f"a changed setting has the wrong type: {error}") from None

    @classmethod
    def from_plain(cls, stored: dict[str, Any]) -> Settings:
        """The inverse of `plain`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(
            **{**values, "search": TrainConfig(**stored["search"]), "train": TrainConfig(**stored["train"])}
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
