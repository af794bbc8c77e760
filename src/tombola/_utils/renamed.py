"""Former names of settings, arguments and options: still read, with a warning that says the new ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

from tombola._utils.errors import UsageError, warn

RENAMED: dict[str, str | None] = {  # None: there is no such thing any more
    "decay": "lr_schedule",
    "during": "callback",
    "at_once": "parallel",
    "stop": None,
}
C = TypeVar("C", bound=type)


class Renamed(FutureWarning):
    """A name that was used has another one today."""


def renewed(given: Mapping[str, Any], quiet: bool = False) -> dict[str, Any]:
    """The same by today's names, in groups of settings too; one `Renamed` warning lists them."""
    notes: dict[str, None] = {}
    found = _renewed(given, notes)
    if notes and not quiet:
        warn("; ".join(notes), Renamed)
    return found


def _renewed(given: Mapping[str, Any], notes: dict[str, None]) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        today = RENAMED.get(name, name)
        if today is None:
            if value:
                notes[f"there is no {name} any more: it is left out"] = None
            continue
        if today != name:
            if today in given:
                raise UsageError(f"{name} is now called {today}: give {today} alone")
            notes[f"{name} is now called {today}"] = None
        found[today] = _renewed(value, notes) if isinstance(value, dict) and name != "options" else value
    return found


def renewed_changes(changes: Iterable[str]) -> list[str]:
    """Changes written ``NAME=VALUE`` or ``train.NAME=VALUE``, by today's names."""
    found = []
    for change in changes:
        name, equals, value = change.partition("=")
        parts = name.split(".")
        today = renewed(dict.fromkeys(parts, value))
        if len(today) == len(parts):
            found.append(".".join(today) + equals + value)
    return found


def renewed_options(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command line by today's names of their options."""
    found = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in ("--at-once", "--at_once"):
            warn(f"{option} is now called --parallel", Renamed)
            argument = f"--parallel{equals}{value}"
        found.append(argument)
    return found


def takes_former_names(cls: C) -> C:
    """A dataclass that is made from former names of its fields as well."""
    make = cls.__init__  # type: ignore[misc]

    @wraps(make)
    def init(self: Any, *args: Any, **given: Any) -> None:
        make(self, *args, **renewed(given))

    cls.__init__ = init  # type: ignore[misc]
    return cls
