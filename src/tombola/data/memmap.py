"""Rows of bytes that would take too much memory: written once to a file, which is mapped.

The file lies in the cache folder, under a hash of all that the rows depend on. A mapped tensor is one like
others, and read-only: what is indexed is read, processes that fork share it, and the system drops from memory
what it needs the room for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import DataError, UsageError
from tombola._utils.io import cache_folder, replacing

SHARE = 0.25  # of the memory that is free: rows that would take more are mapped
VARIABLE = "TOMBOLA_MEMORY_SHARE"  # in the environment: another share; 0 maps all, inf nothing
Rows = Callable[[], Iterable[tuple[int, np.ndarray]]]  # each with its place, every place once

_SEAL = 4  # bytes at the end of a file: CRC-32 of all before; SHA-256 would take several times as long


def fits(size: int) -> bool:
    """True if so many bytes may be held in memory."""
    given = os.environ.get(VARIABLE, "")
    try:
        share = float(given or SHARE)
    except ValueError:
        share = -1.0
    if not share >= 0:
        raise UsageError(f"{VARIABLE}={given} in the environment must be a number from 0 on, such as {SHARE}")
    return size <= share * free_memory()


def free_memory() -> int:
    """Bytes that this process could get without swapping; all memory where the system does not say more."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")  # of a container
        limit, used = (int((group / f"memory.{what}").read_text()) for what in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found = min(found, limit - used + int(stat["inactive_file"]))  # what is read again does not count
    except (OSError, StopIteration, ValueError, KeyError):  # another system, or no limit
        pass
    return found


def mapped(key: object, shape: Sequence[int], rows: Rows) -> Tensor:
    """Rows ``[S, ...]`` as uint8 over a file for this ``key``, made where missing or damaged."""
    name = hashlib.sha256(repr((key, tuple(shape))).encode()).hexdigest()[:32]
    path = cache_folder() / f"rows-{name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(path):
            if not _is_whole(path, prod(shape)):
                _write(path, shape, rows)
        return _opened(path, shape)
    except OSError as error:
        raise DataError(
            f"{prod(shape) / 2**30:.3g} GiB of decoded data would take too much memory, and {path.parent} "
            f"cannot hold them ({error.strerror or error}): make room there, name another folder with "
            f"XDG_CACHE_HOME, or hold them in memory with {VARIABLE}=inf"
        ) from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.with_name(f"{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, shape: Sequence[int], rows: Rows) -> None:
    for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed
        left.unlink()
    size, each = prod(shape), prod(shape[1:])
    path.unlink(missing_ok=True)  # damaged
    if shutil.disk_usage(path.parent).free < size + _SEAL:
        raise OSError(0, "too little room on the disk")  # said before the work, not in the middle of it
    with replacing(path) as file:
        for place, row in rows():
            file.seek(place * each)
            file.write(np.ascontiguousarray(row).data)
        file.write(_sealed(file, size))


def _is_whole(path: Path, size: int) -> bool:
    if not path.exists() or path.stat().st_size != size + _SEAL:
        return False
    with path.open("rb") as file:
        return _sealed(file, size) == file.read()


def _sealed(file: BinaryIO, size: int) -> bytes:
    found = 0
    file.seek(0)
    while size and (part := file.read(min(size, 1 << 20))):
        found = zlib.crc32(part, found)
        size -= len(part)
    return found.to_bytes(_SEAL, "big")


def _opened(path: Path, shape: Sequence[int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(path, mode="r", shape=tuple(shape)))
