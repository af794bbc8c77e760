"""What options of commands have in common: several values, switches, threads, where data are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from tombola.errors import UsageError

Several = Parameter(consume_multiple=True)
Words = Annotated[tuple[str, ...], Several]
Numbers = Annotated[tuple[float, ...], Several]
Integers = Annotated[tuple[int, ...], Several]
Flag = Annotated[bool, Parameter(negative="")]  # without `--no-NAME`


def use_threads(count: int | None) -> None:
    """Let torch use so many threads; as many as it likes by default."""
    if count is not None:
        if count < 1:
            raise UsageError(f"--threads must be at least 1: got {count}")
        torch.set_num_threads(count)


def absolute(source: str) -> str:
    """A folder by its whole name, so that a run finds it from elsewhere; other names as they are."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.exists() else source
