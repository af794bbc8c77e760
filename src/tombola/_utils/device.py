"""The device of a network: where its weights are.

Weights in training, the masks in use and batches are there. Data, partitions, `tombola.MaskSet` and saved
states stay on the CPU, scores are cut into masks there, and data orders and augmentations are drawn there:
they do not depend on the device.
"""

from __future__ import annotations

import os

import torch
from torch import nn

from tombola._utils.errors import UsageError

CPU = torch.device("cpu")


def device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter of a module; the CPU where it has none."""
    first = next(module.parameters(), None)
    return CPU if first is None else first.device


def parse(name: str) -> torch.device:
    """A device by its name: ``cpu``, ``cuda:1``, ``mps``, ...; `UsageError` where there is none.

    Without a number it is the one that torch uses, and under torchrun that of the rank on its machine.
    """
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    known = " or ".join(["cpu", *([here.type] if here else [])])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"there is no device {name!r}: this machine has {known}") from None
    if device.type == "cpu":
        return device
    if here is None or device.type != here.type or (device.index or 0) >= torch.accelerator.device_count():
        raise UsageError(f"there is no device {name!r}: this machine has {known}")
    if ":" not in name and (rank := os.environ.get("LOCAL_RANK", "")).isdecimal():
        return torch.device(device.type, int(rank) % torch.accelerator.device_count())
    return device


def deterministic() -> None:
    """Tell torch to use operations that give equal bits for equal inputs, wherever it has them.

    On accelerators, where they are slower, that is not the default; a run that is gone on with must equal one
    that never stopped.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs time
