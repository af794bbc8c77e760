"""Many masks over many weights: time and memory of the algebra."""

from __future__ import annotations

import torch

from benchmarks.measure import Side, interleave, peak_memory
from benchmarks.row import Row, milliseconds
from benchmarks.setting import generator
from tombola._utils.memory import high_water
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet

OPERATIONS = ("union", "core", "jaccard", "pack")


def mask_set(full: bool) -> list[Row]:
    sizes = [(50, 2_000_000), *([(200, 10_000_000)] if full else [])]
    return [row for size in sizes for row in _rows(*size)]


def _rows(K: int, N: int) -> list[Row]:
    name = f"maskset_k{K}_{N // 1_000_000}m"
    before, after = peak_memory(_peak, (K, N))
    masks = build(K, N)
    numbers = masks.masks_KN.view(torch.int64)
    sides: dict[str, Side] = {operation: getattr(masks, operation) for operation in OPERATIONS}
    sides["read"] = lambda: numbers.sum()
    times = interleave(sides, 2, warmup=0)
    read = f"one read of the masks: {milliseconds(times.median('read'))}"
    memory = f"24 GiB; {before / 2**30:.2f} GiB with the masks ({K * N / 2**30:.2f} GiB) before any operation"
    return [
        Row(name, after / 2**30, "GiB", memory, 24),
        *(Row(f"{name}_{o}", times.median(o), "s", read, None, times.spread(o)) for o in OPERATIONS),
    ]


def build(K: int, N: int) -> MaskSet:
    """Random masks of density one half."""
    random, masks_KN = generator(), torch.empty(K, N, dtype=torch.bool)
    for row in masks_KN:
        row.copy_(torch.randint(2, (N,), dtype=torch.uint8, generator=random))
    return MaskSet.stacked(Layout(("w",), ((N,),)), [f"ticket{k}" for k in range(K)], masks_KN)


def _peak(size: tuple[int, int]) -> tuple[int, int]:
    masks = build(*size)
    before = high_water()
    for operation in OPERATIONS:
        getattr(masks, operation)()
    return before, high_water()
