"""The command line: says which commands there are, and how they end."""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import tombola
from tombola._utils.errors import TombolaError, TombolaWarning, UsageError, need_lab
from tombola._utils.renamed import Renamed, renewed_options

if TYPE_CHECKING:
    from cyclopts import App

# Two OpenMP programs at once spin on each other; must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# `tombola --help`, group by group. Each command is a function in a module of its name, imported when it is
# called: what they need takes seconds to import.
COMMANDS = {
    "Find tickets": (
        *("experiments", "advise", "discover", "plan", "run", "oneshot"),
        *("resume", "sweep", "continual", "adapt", "watch"),
    ),
    "Read results": ("compare", "report", "affinity", "draw", "collapse", "semantics"),
    "Use tickets": (
        *("inspect", "route", "calibrate", "predict", "serve"),
        *("stream", "enhance", "export", "share"),
    ),
    "Change tickets": ("grow", "forget", "merge"),
}


# Commands that all ranks of a job (torchrun) carry out together; others are for rank 0.
OVER_RANKS = ("run", "resume", "sweep")


@cache
def app() -> App:
    """The program with all its commands."""
    from cyclopts import App, Group, Parameter

    found = App(
        name="tombola",
        help="One network, many winning tickets: sparse subnetworks for subsets of your data.",
        version=tombola.__version__,
        group_commands=Group("Options", sort_key=len(COMMANDS)),
        # No --empty-NAME: leaving NAME out says the same.
        default_parameter=Parameter(negative_iterable="", show_default=_default, converter=_converted),
        suppress_keyboard_interrupt=False,  # `main` says how to go on
    )
    for number, (title, names) in enumerate(COMMANDS.items()):
        group = Group(title, sort_key=number)
        for place, name in enumerate(names):
            found.command(f"tombola.cli.{name}:{name}", help=_help(name), group=group, sort_key=place)
    return found


def _default(value: object) -> str | None:
    """What `--help` says of a default: nothing of an empty one, and several values as they are given."""
    if value is None or value is False or value in ((), ""):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _converted(kind: Any, tokens: Any) -> Any:
    """What is given, converted; a whole number with a point is refused, where it would be rounded."""
    from cyclopts import convert

    if int in (kind, *get_args(kind)) and (parts := [t.value for t in tokens if "." in t.value]):
        raise UsageError(f"{tokens[0].keyword} takes whole numbers: got {parts[0]}")
    return convert(kind, tokens)


def _help(command: str) -> str:
    """The words of a command's docstring above its arguments, read without importing it."""
    module = ast.parse(Path(__file__).with_name(f"{command}.py").read_text())
    (function,) = (part for part in module.body if getattr(part, "name", "") == command)
    words = ast.get_docstring(function) or ""  # type: ignore[arg-type]
    return words.partition("\n\nArgs:\n")[0]


def main(arguments: list[str] | None = None) -> None:
    """Entry point: status 0; 2 where the command has to be written otherwise (`UsageError`), else 1.

    Interrupted, it is 130.
    """
    try:
        need_lab("the command line")
    except TombolaError as error:
        _fail(error, 1)
    from cyclopts import CycloptsError  # only now: it belongs to the extra

    try:
        with warnings.catch_warnings(), _ranks() as follows:
            _tell_once()
            given = renewed_options(sys.argv[1:] if arguments is None else arguments)
            if follows and given[:1] and given[0] not in OVER_RANKS:
                return  # rank 0 does it
            app()(given, exit_on_error=False, print_error=False)
    except (UsageError, CycloptsError) as error:
        _fail(error, 2)
    except (TombolaError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


@contextmanager
def _ranks() -> Iterator[bool]:
    """Whether this process follows rank 0 of a job (torchrun): then it prints nothing but errors."""
    if "TORCHELASTIC_RUN_ID" not in os.environ and "RANK" not in os.environ:
        yield False
        return
    import torch

    from tombola._utils.ranks import joined
    from tombola.training.parallel import world

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # torchrun sees to it for several processes on a machine, but not for one
    with joined():
        follows = (world() or (0, 1))[0] > 0
        if follows:
            from tombola.cli.terminal import err_console, out_console

            err_console.quiet = out_console.quiet = True
        yield follows


def _tell_once() -> None:
    """Warnings of the library are a line each, and so are former names, whatever files they stand in."""
    for kind in (TombolaWarning, Renamed):
        warnings.simplefilter("always", kind)
    shown, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, (TombolaWarning, Renamed)):
            shown(message, category, *where, **more)
        elif str(message) not in told:
            told.add(str(message))
            sys.stderr.write(f"tombola: {message}\n")

    warnings.showwarning = show


def _fail(error: Exception, status: int) -> NoReturn:
    message = " ".join(str(error).split())
    rank = os.environ.get("RANK", "0")
    where = "tombola" if rank == "0" else f"tombola, rank {rank}"
    sys.stderr.write(f"{where}: {message}\n")
    sys.exit(status)
