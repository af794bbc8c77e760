"""Locks: one process at a time writes a run, in the way in which it began, or what several runs share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tombola._utils.errors import RunError
from tombola.runs.log import read_environment
from tombola.training.parallel import Parallel, world


def acquire(path: Path) -> TextIO:
    """Make a run directory, or take one that is there, until the file that is returned is closed.

    Raises:
        RunError: the directory belongs to something else, or to a live process.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunError(f"{path} cannot be a directory, a file is in the way: choose another") from None
    strangers = any(not file.name.startswith(".") for file in path.iterdir())
    if strangers and not (path / "config.yaml").exists():
        raise RunError(f"{path} is not empty and no run: choose another directory")
    return _lock(path)


def _lock(path: Path) -> TextIO:
    file = (path / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise RunError(f"{path} is being written by another process (pid {owner}): wait for it") from None
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


@contextmanager
def turn(file: Path) -> Iterator[None]:
    """Wait until no other process is making a file that several need; it may be there then.

    Where the file system has no locks nobody waits: a file that is made twice is the same.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("a") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def begun_on(path: Path, device: str) -> str:
    """The device of a run: where it began, or its bytes would differ; a new one on the CPU, if not asked.

    Args:
        path: the run, which need not exist.
        device: what is asked for; empty for what it began with.

    Raises:
        RunError: another device is asked for.
    """
    known = read_environment(path)
    began = known.get("device", "cpu" if known else device or "cpu")  # older runs were on the CPU
    if device and device != began:
        raise RunError(
            f"{path} began on the device {began}, and {device} may change its last bits: leave --device out, "
            "or choose another directory"
        )
    return str(began)


def began_over(path: Path, parallel: Parallel) -> list[str]:
    """What is no longer byte-equal in a run that goes on over another number of ranks, in words."""
    began, here = read_environment(path).get("ranks", 1), (world() or (0, 1))[1]
    if parallel not in ("joint_ranks", "batched_ranks") or began == here:
        return []
    kept, rounded = "masks and finished stages", "weights, losses and scores of joint training"
    if parallel == "batched_ranks":
        kept, rounded = "finished stages", "what searches find"
    return [
        f"began on {began} ranks and goes on with {here}: {kept} keep their bytes; {rounded} that is still "
        "to come agree up to rounding"
    ]


def begun(path: Path, parallel: Parallel) -> Parallel:
    """The way tickets are run in a run: as when it began, or its bytes would differ.

    Raises:
        RunError: another way is asked for.
    """
    known = read_environment(path)
    way: Parallel = known.get("parallel", "no")  # older runs: in turn
    if parallel not in ("auto", way):
        raise RunError(
            f"{path} began with parallel={way}, and {parallel} may change its last bits: leave --parallel "
            "out, or choose another directory"
        )
    return way
