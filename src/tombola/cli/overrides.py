"""Settings that a user gives and a method of the toolbox does not take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tombola._utils.errors import UsageError
from tombola.cli.terminal import err_console
from tombola.lab.launch import Order
from tombola.methods.table import METHODS
from tombola.settings import Settings


def say_overridden(orders: Iterable[Order], changes: Sequence[str]) -> None:
    """Print the lines of `overridden`, each once."""
    lines = [line for order in orders for line in overridden(order.methods, order.settings, changes)]
    for line in dict.fromkeys(lines):
        err_console.print(line, highlight=False, soft_wrap=True)


def overridden(methods: Sequence[str], settings: Settings, changes: Iterable[str]) -> list[str]:
    """A line for each method that fixes a setting of its own to another value than was given.

    Args:
        methods: of the command.
        settings: with the changes.
        changes: as given to ``--set``: ``NAME=VALUE``.

    Raises:
        UsageError: none of the methods takes it, so it would change nothing.

    >>> overridden(["imp", "snip"], Settings(T=9), ["T=9"])
    ['T=9 is not for snip, which has T=0']
    """
    plain, lines = settings.plain(), []
    for name in dict.fromkeys(change.partition("=")[0] for change in changes):
        fixed = {
            method: METHODS[method].changes[name] for method in methods if name in METHODS[method].changes
        }
        others = {method: value for method, value in fixed.items() if value != plain.get(name)}
        if others and len(others) == len(methods):
            each = ", ".join(f"{method} has {name}={value}" for method, value in others.items())
            raise UsageError(
                f"--set {name}={plain[name]} would change nothing: {each}. Leave it out, or set all of the "
                "method's settings under rtl (docs/methods)"
            )
        lines += [
            f"{name}={plain[name]} is not for {method}, which has {name}={value}"
            for method, value in others.items()
        ]
    return lines
