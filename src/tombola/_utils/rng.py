"""Randomness as an argument: a generator is a function of what it is for, never of what ran before.

Because the data order of a step depends on (seed, phase, round, ticket, epoch) alone, an interrupted
run can go on anywhere and read the same samples.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tombola._utils.device import CPU


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator for ``(seed, *purpose)``: equal arguments, equal random numbers.

    >>> a, b = generator(0, "retrain", 3), generator(0, "retrain", 3)
    >>> bool((torch.rand(4, generator=a) == torch.rand(4, generator=b)).all())
    True
    """
    # A NumPy number equals the Python number, but its repr does not, and changes between versions.
    key = tuple(part.item() if isinstance(part, np.generic) else part for part in (seed, *purpose))
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@contextmanager
def drawn_from(seed: int, *purpose: object, device: torch.device = CPU) -> Iterator[None]:
    """Inside, draw from PyTorch's global generators as from ours; restore them afterwards."""
    ours, before = generator(seed, *purpose), torch.get_rng_state()
    there = None if device.type == "cpu" else torch.get_device_module(device)
    before_there = None if there is None else there.get_rng_state(device)
    torch.set_rng_state(ours.get_state())
    if there is not None:
        there.set_rng_state(torch.Generator(device).manual_seed(ours.initial_seed()).get_state(), device)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if there is not None:
            there.set_rng_state(before_there, device)


@contextmanager
def everywhere() -> Iterator[Callable[[int], None]]:
    """Inside, a call with a seed sets the global generators of PyTorch, NumPy and Python; not outside.

    >>> with everywhere() as draw_from:
    ...     draw_from(3)
    ...     first = torch.rand(1)
    ...     draw_from(3)
    ...     bool(first == torch.rand(1))
    True
    """
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()

    def draw_from(seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    try:
        yield draw_from
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
