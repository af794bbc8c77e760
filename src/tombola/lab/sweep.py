"""A sweep: a grid of settings, methods, sparsities and seeds; its runs share what is common."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tombola._utils.errors import UsageError
from tombola.lab.launch import Order
from tombola.methods.table import METHODS, method

_HINT = " (commas separate values; where a value has commas of its own, semicolons do: NAME=a:1,2;)"
SHARED = "shared"  # the folder, beside the runs, of dense trainings and rewind points


@dataclass(frozen=True)
class Point:
    """One combination of the grid."""

    values: dict[str, str]
    order: Order
    folder: Path

    @property
    def label(self) -> str:
        """The values in one line; empty where nothing varies."""
        return label(self.values)


def label(values: Mapping[str, str]) -> str:
    """The values of a point in one line.

    >>> label({"T": "5", "score": "snip"})
    'T=5, score=snip'
    """
    return ", ".join(f"{name}={value}" for name, value in values.items())


def split(change: str) -> tuple[str, list[str]]:
    """A setting and its values: ``NAME=V1,V2``; with semicolons where a value has commas of its own.

    One such value alone has a semicolon behind it.

    >>> split("T=10,20"), split("sparsity=[0.5,0.9]"), split("schedule=explicit:0.1,0.2;one_shot")[1]
    (('T', ['10', '20']), ('sparsity', ['[0.5,0.9]']), ['explicit:0.1,0.2', 'one_shot'])
    >>> split("search.lr_schedule=step:0.6,0.85;")
    ('search.lr_schedule', ['step:0.6,0.85'])
    """
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise UsageError(f"a setting of a sweep is written NAME=V1,V2,...: got {change!r}")
    if ";" in text:
        values = text.removesuffix(";").split(";")
    else:
        values, depth = [""], 0
        for sign in text:
            depth += (sign in "[{") - (sign in "]}")
            if sign == "," and not depth:
                values.append("")
            else:
                values[-1] += sign
    if len(set(values)) < len(values):
        raise UsageError(f"each value of {name} is needed once: got {text!r}")
    return name, values


def grid(base: Order, folder: Path, changes: Iterable[str], alone: bool = False) -> list[Point]:
    """Every combination of the values of some settings, in order, the last setting fastest.

    What has one value is changed everywhere; what has several makes the grid. Points share what they have in
    common, but for one that is ``alone``.

    Raises:
        UsageError: a setting or value that makes no sense, or several values of one that is alone.
    """
    given = dict(map(split, changes))
    varied = {name: values for name, values in given.items() if len(values) > 1}
    fixed = [f"{name}={values[0]}" for name, values in given.items() if len(values) == 1]
    if alone and varied:
        raise UsageError(f"{', '.join(varied)}: several values are a sweep{_HINT}")
    points, shared = [], None if alone else folder / SHARED
    for combination in itertools.product(*varied.values()):
        values = dict(zip(varied, combination, strict=True))
        changed = [f"{name}={value}" for name, value in values.items()]
        try:
            settings = base.settings.changed([*fixed, *changed])
        except UsageError as error:
            hint = _HINT if any(":" in v for vs in varied.values() for v in vs) else ""
            raise UsageError(f"{error}{hint}") from None
        name = ",".join(changed).replace("/", "%2F").replace(":", "-")
        points.append(Point(values, replace(base, settings=settings, shared=shared), folder / name))
    return points


def with_controls(names: Sequence[str]) -> list[str]:
    """These methods, the dense network, and what each of them has to beat.

    >>> with_controls(["imp"])
    ['imp', 'dense', 'random_pruning', 'reinit']
    """
    found = [*names, "dense"]
    if any(method(name).task == "own" and not method(name).control for name in names):
        found += ["imp", "same_mask", "random_mask", "theta0_magnitude"]
    if any(method(name).task == "single" and not method(name).conditioned for name in names):
        found += ["random_pruning", "reinit"]
    if any(method(name).conditioned for name in names):
        found += ["dense_context"]
    return [name for name in dict.fromkeys(found) if name in METHODS]
