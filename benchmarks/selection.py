"""Selecting the top half of N scores over ``torch.kthvalue``, one read of the scores, and memory."""

from __future__ import annotations

import torch

from benchmarks.measure import interleave, peak_memory
from benchmarks.row import Row, ratio
from benchmarks.setting import generator
from tombola._utils.memory import high_water
from tombola.pruning import keep_top


def select_10m(full: bool) -> list[Row]:
    scores = torch.rand(10_000_000, generator=generator())
    keep = len(scores) // 2
    sides = {
        "keep_top": lambda: keep_top(scores, keep),
        "kthvalue": lambda: torch.kthvalue(scores, keep),
    }
    times = interleave(sides, 20 if full else 7, warmup=1)
    return [ratio("select_10m_vs_kthvalue", times, "keep_top", "kthvalue", "torch.kthvalue, 10M scores", 1)]


def select_100m(full: bool) -> list[Row]:
    N = 100_000_000
    scores = torch.rand(N, generator=generator())
    sides = {
        "keep_top": lambda: keep_top(scores, N // 2),
        "kthvalue": lambda: torch.kthvalue(scores, N // 2),
        "read": lambda: scores.sum(),
    }
    times = interleave(sides, 5 if full else 2, warmup=1 if full else 0)
    return [
        ratio("select_100m_vs_kthvalue", times, "keep_top", "kthvalue", "torch.kthvalue, 100M scores", 1 / 6),
        ratio("select_100m_vs_read", times, "keep_top", "read", "one sum of the 100M scores", 10),
        *([_memory(N)] if full else []),
    ]


def _memory(N: int) -> Row:
    before, after = peak_memory(_peak, N)
    return Row(
        "select_100m_memory",
        (after - before) / (4 * N),
        "×",
        f"bytes of the scores themselves (peak {after / 2**30:.2f} GiB with them, "
        f"{before / 2**30:.2f} GiB before)",
    )


def _peak(N: int) -> tuple[int, int]:
    scores = torch.rand(N, generator=generator())
    before = high_water()
    keep_top(scores, N // 2)
    return before, high_water()
