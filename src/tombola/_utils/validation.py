"""Checks of what a user gives: fields of a dataclass hold what their defaults are, and names can be names."""

from __future__ import annotations

from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any

from tombola._utils.errors import TombolaError, UsageError
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


def check_name(name: object, what: str, error: type[TombolaError] = UsageError, slash: bool = True) -> None:
    """Raise an error where this can be no name: of a ticket, a subset, a task or an alias.

    A name is printed, asked for in addresses and made that of a file (`tombola._utils.io.file_name`): text of
    any script, with spaces inside, without line ends and the like, short enough for a file name in UTF-8.

    >>> check_name("Kraków, 2nd floor", "ticket")
    >>> check_name("a\\tb", "ticket")
    Traceback (most recent call last):
    ...
    tombola._utils.errors.UsageError: the name of a ticket is one line of 1 to 100 characters: got 'a\\tb'
    """
    whose = f"the name of {'an' if what[0] in 'aeiou' else 'a'} {what}"
    form = "one line of 1 to 100 characters" + ("" if slash else " without /")
    if not isinstance(name, str):
        raise error(f"{whose} is a string, {form}: got {name!r}")
    short = len(name) <= 100 and len(name.encode(errors="replace")) <= 200
    if not (short and name.isprintable() and name.strip(" .")) or ("/" in name and not slash):
        shown = repr(name) if short else f"{len(name):,} characters, {name[:20]!r}..."
        raise error(f"{whose} is {form}: got {shown}")
    if name != name.strip():
        raise error(f"{whose} begins and ends without blanks: got {name!r}, write {name.strip()!r}")


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
