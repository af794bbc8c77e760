"""From stored samples to what a network takes, in steps that are small data: a name, and numbers.

A ticket file holds the steps of `tombola.Data.prepare`, so that whoever asks the tickets later prepares
inputs as training did (`tombola.TicketModel.prepare`). Nothing is pickled: of a function of the user's own
the name is kept alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from tombola._utils.batch import Batch
from tombola._utils.errors import DataError
from tombola.data.images import Normalise
from tombola.data.table import Standardize

Prepare = Callable[[Batch], Batch]

__all__ = ["Compose", "Normalise", "Scale", "Standardize", "described", "restored", "same"]


def same(x: Batch) -> Batch:
    """The default ``prepare``: inputs as they are."""
    return x


@dataclass(frozen=True)
class Scale:
    """Floats ``x * factor + shift``, of any shape.

    >>> Scale(1 / 255)(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """

    factor: float
    shift: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Scaled values, in torch's default dtype where they were integers."""
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return x * self.factor + self.shift


@dataclass(frozen=True)
class Compose:
    """Several steps, one after the other.

    >>> Compose([Tensor.float, Scale(0.5)])(torch.tensor([3]))
    tensor([1.5000])
    """

    steps: tuple[Prepare, ...]

    def __init__(self, steps: Iterable[Prepare]) -> None:
        object.__setattr__(self, "steps", tuple(steps))
        if wrong := [step for step in self.steps if not callable(step)]:
            raise DataError(f"a step is a function of a batch: got {type(wrong[0]).__name__}")

    def __call__(self, x: Batch) -> Batch:
        """What the last step makes."""
        for step in self.steps:
            x = step(x)
        return x


KINDS: dict[str, type[Any]] = {"normalise": Normalise, "standardize": Standardize, "scale": Scale}
CASTS: dict[str, Prepare] = {
    "float": Tensor.float,
    "double": Tensor.double,
    "half": Tensor.half,
    "bfloat16": Tensor.bfloat16,
    "long": Tensor.long,
}


def described(prepare: Prepare) -> list[dict[str, Any]]:
    """The steps as JSON can hold them; a function that is none of these by its name alone, as ``own``.

    >>> described(Compose([Tensor.float, Scale(2.0)]))
    [{'step': 'float'}, {'step': 'scale', 'factor': 2.0, 'shift': 0.0}]
    >>> described(divmod)
    [{'own': 'builtins.divmod'}]
    """
    if prepare is same:
        return []
    if isinstance(prepare, Compose):
        return [known for step in prepare.steps for known in described(step)]
    for name, cast in CASTS.items():
        if prepare is cast:
            return [{"step": name}]
    for name, kind in KINDS.items():
        if type(prepare) is kind:
            known = {"step": name, **{field: _plain(value) for field, value in vars(prepare).items()}}
            return [known] if _is_whole(known) else [{"own": _name(prepare)}]
    return [{"own": _name(prepare)}]


def restored(known: Iterable[Mapping[str, Any]]) -> Prepare:
    """The function of a description.

    Raises:
        DataError: a step is a function of the user's own, or of a newer version.

    >>> restored([{"step": "scale", "factor": 2.0, "shift": 0.0}])
    Scale(factor=2.0, shift=0.0)
    """
    known = list(known)
    if own := [name for step in known if (name := _own(step)) is not None]:
        raise DataError(
            f"in training inputs were prepared by {own[0]}, which a ticket file cannot hold: pass inputs "
            "that it has prepared"
        )
    steps = [_step(step) for step in known]
    return same if not steps else steps[0] if len(steps) == 1 else Compose(steps)


def _own(known: Mapping[str, Any]) -> str | None:
    """The name of a step that cannot be made again; None for one that can."""
    name: str = known["own"] if "own" in known else known["step"]
    return None if "own" not in known and name in {*KINDS, *CASTS} else name


def is_description(value: Any) -> bool:
    """Whether a value of a file, of whatever origin, is what `described` gives."""
    return isinstance(value, list) and all(isinstance(step, dict) and _is_whole(step) for step in value)


def _is_whole(known: Mapping[str, Any]) -> bool:
    name, values = known.get("own", known.get("step")), {k: v for k, v in known.items() if k != "step"}
    if not isinstance(name, str) or "own" in known or name not in KINDS:
        return isinstance(name, str)  # a function of one's own, a cast, or a step of a newer version
    rows = {f.name: isinstance(values.get(f.name), list) == (f.type != "float") for f in fields(KINDS[name])}
    if values.keys() != rows.keys() or not all(rows.values()):
        return False
    each = [value if isinstance(value, list) else [value] for value in values.values()]
    numbers = [number for row in each for number in row]
    if not all(type(number) in (int, float) and isfinite(number) for number in numbers):
        return False
    return len({len(row) for row in each}) == 1 and bool(numbers) and all(values.get("std", [1]))


def _step(known: Mapping[str, Any]) -> Prepare:
    name, values = known["step"], {k: v for k, v in known.items() if k != "step"}
    if name in CASTS:
        return CASTS[name]
    made: Prepare = KINDS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    return made


def _plain(value: Any) -> Any:
    try:
        return [float(each) for each in value] if hasattr(value, "__len__") else float(value)
    except (TypeError, ValueError):
        return None


def _name(prepare: Any) -> str:
    while isinstance(prepare, partial):
        prepare = prepare.func
    called = prepare if hasattr(prepare, "__qualname__") else type(prepare)
    where = getattr(called, "__module__", None)
    return f"{where}.{called.__qualname__}" if where else str(called.__qualname__)
