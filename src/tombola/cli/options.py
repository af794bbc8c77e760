"""What options of commands have in common: several values, switches, threads, where data are, how to run."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from tombola._utils import io
from tombola._utils.errors import UsageError, unknown
from tombola.cli.terminal import say_aside
from tombola.lab.experiments import Experiment
from tombola.lab.launch import Order
from tombola.lab.report.page import check_page
from tombola.methods.table import METHODS
from tombola.settings import Settings
from tombola.training.parallel import Parallel

Several = Parameter(consume_multiple=True)
Words = Annotated[tuple[str, ...], Several]
Numbers = Annotated[tuple[float, ...], Several]
Integers = Annotated[tuple[int, ...], Several]
Flag = Annotated[bool, Parameter(negative="")]  # without `--no-NAME`


def new(
    *targets: Path, force: bool, own: Callable[[Path], bool] = lambda _: False, read: Iterable[Path] = ()
) -> None:
    """Raise `UsageError` where a file is there that a command would replace, unless it may (``--force``).

    ``own`` says whether a file was written by the same command, so that it may be written again. What the
    command reads is never replaced.
    """
    for path in targets:
        if path.exists() and any(one.exists() and path.samefile(one) for one in read):
            raise UsageError(f"{path} is what is read here: give another name to write to")
    there = [path for path in targets if path.is_file() and not (force or own(path))]
    if there:
        raise UsageError(f"{there[0]} is there already: --force replaces it, another name leaves it")


def check_save(save: Path | None, file: Path, data: str | None = None, *, force: bool) -> None:
    """Raise an error where ``--save`` cannot take what a command makes of FILE, which it else changes itself.

    Written over FILE by another name, it would be replaced without a lock, and its old content left on disk.
    """
    if save is None:
        return
    io.check_target(save)
    if save.exists() and file.exists() and save.samefile(file):
        raise UsageError(
            f"{save} is what is read here: leave --save out to change it, or give another name to write to"
        )
    new(save, force=force, read=[Path(data)] if data is not None else ())


def _check_kept(path: Path | None) -> None:
    try:
        if path is not None and path.is_file():
            json.loads(path.read_text())
    except (OSError, ValueError):
        raise UsageError(f"{path} is there already, and holds no rows in JSON: give another name") from None


# A file for rows: one that is there holds some, and is made anew.
Kept = Annotated[Path | None, Parameter(validator=lambda _, path: _check_kept(path))]
# A page for tables, looked at before anything is computed.
Page = Annotated[Path | None, Parameter(validator=lambda _, page: page is None or check_page(page))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How `tombola run` and `tombola sweep` carry out methods of an experiment.

    Attributes:
        preset: A named set of settings; `tombola experiments` lists them, the first is the default.
        sparsity: Shares of weights removed, such as 0.5 0.9; the preset's by default.
        data: A folder with the data, or the name of a hub data set; what ships inside a dependency by
            default.
        augment: Random crop and flip; the preset's choice by default.
        tune: Leave the test split alone: judge on one half of validation, choose thresholds on the other.
        threads: Threads of one process, or workers of one thread; by default as a run began, a new one with
            all cores. Another number may change the last bits.
        parallel: The K trainings of a round: workers (one thread each), no (one after the other, all
            threads), batched (one batch; other last bits), ranks (over the processes of torchrun),
            joint_ranks (joint training over them too; other last bits), batched_ranks (one batch on each;
            other last bits). By default as the run began; a new one takes ranks under torchrun, else workers
            on several cores.
        device: Where to compute: cpu, cuda, cuda:1, ...; under torchrun cuda is one for each rank. By default
            where the run began; a new one on the CPU.
        json: Print rows for machines instead of tables.
    """

    preset: str | None = None
    sparsity: Numbers = ()
    data: str | None = None
    augment: bool | None = None
    tune: Flag = False
    threads: int | None = None
    parallel: Parallel = "auto"
    device: str = ""
    json: Flag = False

    def order(self, name: str | Experiment, methods: Sequence[str], changes: Iterable[str] = ()) -> Order:
        """What is to be run of an experiment; from here on torch has as many threads as are asked for."""
        use_threads(self.threads)
        own = ("preset", "sparsity", "augment", "tune", "parallel", "device", "threads")
        options = {name: getattr(self, name) for name in own}
        source = self.data and absolute(self.data)
        return Order.of(name, changes=changes, source=source, methods=methods, **options)


DEFAULTS = RunOptions()


def say_overridden(orders: Iterable[Order], changes: Sequence[str]) -> None:
    """Print the lines of `overridden`, each once."""
    lines = [line for order in orders for line in overridden(order.methods, order.settings, changes)]
    for line in dict.fromkeys(lines):
        say_aside(line)


def overridden(methods: Sequence[str], settings: Settings, changes: Iterable[str]) -> list[str]:
    """A line for each method that fixes a setting of its own to another value than was given.

    >>> overridden(["imp", "snip"], Settings(T=9), ["T=9"])
    ['T=9 is not for snip, which has T=0']
    """
    plain, lines = settings.plain(), []
    for name in dict.fromkeys(change.partition("=")[0] for change in changes):
        value = plain.get(name)
        fixed = {method: METHODS[method].changes.get(name, value) for method in methods}
        others = {method: own for method, own in fixed.items() if own != value}
        if others and len(others) == len(methods):
            each = ", ".join(f"{method} has {name}={own}" for method, own in others.items())
            raise UsageError(
                f"--set {name}={value} would change nothing: {each}. Leave it out, or set all of the "
                "method's settings under rtl (docs/methods)"
            )
        said = f"{name}={value} is not for"
        lines += [f"{said} {method}, which has {name}={own}" for method, own in others.items()]
    return lines


def use_threads(count: int | None) -> None:
    """Let torch use so many threads; as many as it likes by default."""
    if count is not None:
        most = 4 * (os.cpu_count() or 1)
        if not 1 <= count <= most:
            raise UsageError(f"--threads must be between 1 and {most}, four times the cores: got {count}")
        torch.set_num_threads(count)


def once(option: str, values: Sequence[object], known: Collection[str] | None = None) -> None:
    """Raise `UsageError` where a value is given twice, or is none of those that are known."""
    strange = [] if known is None else [value for value in values if value not in known]
    if strange and known is not None:
        raise UsageError(unknown(option.strip("-"), strange[0], known))
    if len(set(values)) < len(values):
        raise UsageError(f"{option}: each value is needed once: got {' '.join(map(str, values))}")


def by_name(words: Sequence[str], what: str, form: str) -> dict[str, str]:
    """What is given as NAME=VALUE, once for each name.

    >>> by_name(["mail=a.csv", "news=b.csv"], "data", "TASK=DATA")
    {'mail': 'a.csv', 'news': 'b.csv'}
    """
    given: dict[str, str] = {}
    for one in words:
        name, _, value = one.partition("=")
        if not name or not value:
            raise UsageError(f"{what} is given once, as {form}: got {one!r}")
        if name in given:
            raise UsageError(f"there are two of {name!r}: {what} is given once, as {form}")
        given[name] = value
    return given


def written(command: str, *words: str, **options: Any) -> str:
    """A command as a model card says it: of paths the last name, and nothing of what is not given.

    >>> written("grow", "far/away/a.tickets", name="far west", data="here/b.csv", set=("T=3",), seed=0)
    "tombola grow a.tickets --name 'far west' --data b.csv --set T=3"
    """
    found = ["tombola", command, *map(_last, words)]
    for name, value in options.items():
        if not (value is None or value is False or value in ("", ()) or (type(value) is int and value == 0)):
            values = value if isinstance(value, tuple) else (value,)
            found += [f"--{name.replace('_', '-')}", *(_last(str(each)) for each in values)]
    return shlex.join(found)


def _last(word: str) -> str:
    """Of a path, or of NAME=PATH, the last name."""
    name, sign, path = word.rpartition("=")
    return f"{name}{sign}{Path(path).name}" if os.sep in path else word


def apart(paths: Sequence[Path], option: str, folder: Path | None) -> Sequence[Path]:
    """The same runs; `UsageError` where two of them would write into one folder below the option's."""
    names = [path.name for path in paths]
    if folder is not None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(
            f"{option} {folder}: several of these runs are called {twice} and would overwrite each "
            "other there: give them one by one, each a folder of its own"
        )
    return paths


def absolute(source: str) -> str:
    """A folder by its whole name, so that a run finds it from elsewhere; other names as they are."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.exists() else source
