"""Small settings that are written in one word: ``fraction:0.2``, ``block:4x4``, ``2:4/input``.

Each is a frozen dataclass whose ``form`` says how it is written: its fields stand in braces, and what may be
left out (its fields then have their defaults) in square brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

from tombola._utils.errors import UsageError

_READ: dict[Any, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "int | None": int,
    "float": float,
    "tuple[float, ...]": lambda text: tuple(map(float, text.split(","))),
}


@dataclass(frozen=True)
class Spec:
    """Base of these dataclasses; ``str`` gives the text from which `parse` makes an equal one."""

    form = ""

    def __str__(self) -> str:
        required, optional = _parts(self.form)
        default = {f.name for f in fields(self) if getattr(self, f.name) == f.default}
        form = required if default.issuperset(_names(optional)) else required + optional
        return _fill(form, lambda name: _text(getattr(self, name)))


S = TypeVar("S", bound=Spec)


def parse(given: str | Spec, kinds: Iterable[type[S] | S], what: str) -> S:
    """The `Spec` that a text stands for; ``what`` names the setting in errors.

    ``kinds`` are the dataclasses that there are, or objects whose other fields stay as they are.

    Raises:
        UsageError: nothing is written like that (the message lists what is), or a number makes no sense.

    >>> @dataclass(frozen=True)
    ... class Pause(Spec):
    ...     form = "pause:{seconds}[:{times}]"
    ...     seconds: float
    ...     times: int = 1
    >>> parse("pause:0.5", [Pause], "break"), str(Pause(2.0, 3))
    (Pause(seconds=0.5, times=1), 'pause:2:3')
    """
    text, kinds = str(given), list(kinds)
    for kind in kinds:
        required, optional = (_fill(p, r"(?P<{}>[\w.,+ -]+)".format, re.escape) for p in _parts(kind.form))
        if found := re.fullmatch(f"{required}(?:{optional})?", text):
            written = {name: value for name, value in found.groupdict().items() if value is not None}
            try:
                values = {f.name: _READ[f.type](written[f.name]) for f in fields(kind) if f.name in written}
                if isinstance(kind, type):
                    return kind(**values)
                return replace(kind, **values) if values else kind
            except ValueError:  # it is no number
                continue
            except UsageError as error:
                raise UsageError(f"{what} {text!r}: {error}") from None
    raise UsageError(f"{what} {text!r} is not understood{_choice(text, kinds)}")


def _choice(text: str, kinds: Iterable[type[Spec] | Spec]) -> str:
    name, names = text.partition(":")[0], [re.split(r"[:\[{]", kind.form)[0] for kind in kinds]
    near = [] if name in names else get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    *others, last = (_fill(kind.form, partial(_placeholder, kind)) for kind in kinds)
    return f"{hint}; write {', '.join(others)}{' or ' if others else ''}{last}"


def _placeholder(kind: type[Spec] | Spec, name: str) -> str:
    several = any(f.name == name and f.type == "tuple[float, ...]" for f in fields(kind))
    return f"{name[0]}1,{name[0]}2,...".upper() if several else name.upper()


def _parts(form: str) -> tuple[str, str]:
    required, _, optional = form.removesuffix("]").partition("[")
    return required, optional


def _names(form: str) -> list[str]:
    return re.findall(r"{(\w+)}", form)


def _fill(form: str, field: Callable[[str], str], literal: Callable[[str], str] = str) -> str:
    """The form with something in place of the fields' names, and of what stands between them."""
    parts = re.split(r"{(\w+)}", form)
    return "".join(field(part) if i % 2 else literal(part) for i, part in enumerate(parts))


def _text(value: object) -> str:
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value).removesuffix(".0")
