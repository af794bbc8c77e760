"""Where the figures were measured."""

from __future__ import annotations

import os
import platform

import numpy
import torch

from tombola.runs.log import processor


def describe() -> str:
    """Processor, cores, threads and versions in one line."""
    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}, "
        f"{platform.system()}"
    )
