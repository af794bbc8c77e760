"""A check that the fields of a dataclass hold what their defaults are."""

from __future__ import annotations

from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any

from tombola._utils.errors import UsageError
from tombola._utils.spec import Spec

_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    bool: ((bool,), "True or False"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    tuple: ((tuple, list, str), "a tuple"),
    list: ((list,), "a list"),
    dict: ((dict,), "a dictionary"),
}


def check_fields(settings: Any) -> None:
    """Raise `UsageError` where a field is of another kind than its default; the message names it.

    A `Spec` becomes its text.
    """
    for field in fields(settings):
        if isinstance(value := getattr(settings, field.name), Spec):
            object.__setattr__(settings, field.name, value := str(value))
        default = field.default if field.default_factory is MISSING else field.default_factory()
        check_kind(field.name, value, default)


def check_kind(name: str, value: object, like: object) -> None:
    """Raise `UsageError` if a value is of another kind than one that makes sense."""
    kinds, words = _KINDS.get(type(like), ((type(like),), f"a {type(like).__name__}"))
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(like, bool):
        raise UsageError(f"{name} is {words}, such as {like!r}: got {value!r}")
