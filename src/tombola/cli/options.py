"""What options of commands have in common: several values, switches, threads, where data are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from tombola._utils.errors import UsageError

Several = Parameter(consume_multiple=True)
Words = Annotated[tuple[str, ...], Several]
Numbers = Annotated[tuple[float, ...], Several]
Integers = Annotated[tuple[int, ...], Several]
Flag = Annotated[bool, Parameter(negative="")]  # without `--no-NAME`


def use_threads(count: int | None) -> None:
    """Let torch use so many threads; as many as it likes by default."""
    if count is not None:
        most = 4 * (os.cpu_count() or 1)
        if not 1 <= count <= most:
            raise UsageError(f"--threads must be between 1 and {most}, four times the cores: got {count}")
        torch.set_num_threads(count)


def once(option: str, values: Sequence[object]) -> None:
    """Raise `UsageError` where a value is given twice."""
    if len(set(values)) < len(values):
        raise UsageError(f"{option}: each value is needed once: got {' '.join(map(str, values))}")


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
