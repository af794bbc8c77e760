"""What a process holds in memory, and the most of it."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def high_water() -> int:
    """The most memory that this process has held so far, its libraries and data included, in bytes."""
    if STATUS.exists():  # ru_maxrss also remembers the process that this one was forked from
        return _status("VmHWM")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


class Peak:
    """The most memory that is held from now on, beside what is held now: a device's, or the process's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that it counts when it is used
            PEAK.write_text("5")  # forgets the peak so far: proc(5)
        except (OSError, AttributeError):
            self.before = -1
        else:
            self.before = _status("VmRSS")

    def bytes(self) -> int | None:
        """How much that was so far; None where the system cannot forget an older peak."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return None if self.before < 0 else max(0, high_water() - self.before)
