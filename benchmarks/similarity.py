"""Similarity of all pairs of 100 masks: Jaccard and kappa, of all layers, each layer and each third."""

from __future__ import annotations

from itertools import pairwise

import torch

from benchmarks.measure import interleave, peak_memory
from benchmarks.row import Row, milliseconds
from benchmarks.sets import build
from tombola._utils.memory import high_water
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import compare

LAYERS = 30
TARGET = 60  # seconds on two cores, for 10M weights


def similarity(full: bool) -> list[Row]:
    K, N = (100, 10_000_000) if full else (100, 1_000_000)
    name = f"similarity_k{K}_{N // 1_000_000}m"
    before, after = peak_memory(_peak, (K, N))
    masks = layered(K, N)
    numbers = masks.masks_KN.view(torch.int64)
    sides = {
        "all": lambda: readings(masks),
        "read": lambda: numbers.sum(),
    }
    times = interleave(sides, 3, warmup=0)
    read = f"one read of the masks: {milliseconds(times.median('read'))}"
    what = f"{LAYERS} layers, {K * (K - 1) // 2:,} pairs; {read}"
    memory = f"{before / 2**30:.2f} GiB with the masks ({K * N / 2**30:.2f} GiB) before"
    return [
        Row(name, times.median("all"), "s", what, TARGET * N / 10_000_000, times.spread("all")),
        Row(f"{name}_memory", (after - before) / 2**30, "GiB", memory, 2),
    ]


def layered(K: int, N: int) -> MaskSet:
    """Random masks over layers whose sizes grow from the first to the last."""
    flat = build(K, N)
    bounds = [N * i**2 // LAYERS**2 for i in range(LAYERS + 1)]
    shapes = tuple((end - start,) for start, end in pairwise(bounds))
    layout = Layout(tuple(f"layer{i}" for i in range(LAYERS)), shapes)
    return MaskSet.stacked(layout, flat.names, flat.masks_KN)


def readings(masks: MaskSet) -> None:
    found = compare(masks)
    for part in (found, *(found.only([layer]) for layer in found.layers), *found.by_depth().values()):
        part.kappa()
        part.jaccard()


def _peak(size: tuple[int, int]) -> tuple[int, int]:
    masks = layered(*size)
    before = high_water()
    readings(masks)
    return before, high_water()
