"""Where the figures were measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy
import torch


def describe() -> str:
    """Processor, cores, threads and versions in one line."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}, "
        f"{platform.system()}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        if "model name" in fields:
            model = f", family {fields['cpu family']} model {fields['model']}" if "model" in fields else ""
            return fields["model name"] + model
    return platform.processor() or platform.machine()
