"""What RTL costs against tickets, weights and workers (docs/cost.md): ``python -m benchmarks.cost``.

First measured runs beside what `tombola.analysis.plan` says of them, then what follows from the constants
that were measured with them. Seconds are processor time of one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

import tombola as tb
from benchmarks.machine import describe
from tombola.analysis.plan import Pace, planned
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.runs.cache import StageCache
from tombola.runs.status import clock

BATCH, ROUNDS, T, STEPS = 128, 7, 100, 500  # of the computed tables: 75% removed, a fifth in each round
SIZES, TICKETS, WORKERS = (10**6, 10**8, 10**10), (1, 10, 100, 1000), (1, 8, 64)
BANDWIDTH = 1.25e9  # bytes a second between machines: ten gigabits


def pipeline(K: int, N: int) -> Pipeline:
    """RTL on K tenants, with a perceptron of about N weights in scope."""
    torch.manual_seed(0)
    width = round((N / 3) ** 0.5)
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
    y, each = torch.arange(64 * K) % 4, 64
    x = torch.randn(64 * K, width)
    data = tb.Data.of(x, y, {"tenant": torch.arange(len(y)) // each}, validation=0.1, test=0.1)
    config = tb.TrainConfig(batch_size=BATCH)
    settings = tb.Settings((0.75,), "fraction:0.5", T=8, steps=16, search=config, train=config, statistics=1)
    partition = tb.partition.by_column(data, "tenant")
    backbone = nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, 4))
    return Pipeline(backbone, tb.objectives.Classification(), data, partition, settings, 0, StageCache("no"))


@dataclass(frozen=True)
class Constants:
    """Seconds for each weight: of a step with `BATCH` samples, and of a cut."""

    step: float
    cut: float


def measured(cases: Sequence[tuple[int, int]]) -> Iterator[tuple[list[str], Constants]]:
    """Of each case a row: what was planned, and what the run took."""
    for K, N in cases:
        p = pipeline(K, N)
        size, pace = p.f.scope.size, Pace(p, time.process_time)
        plan = planned(p, ["rtl"])
        said = plan.seconds(pace)
        began = time.process_time()
        run_method(replace(p, cache=StageCache("no")), "rtl", 0.75)
        took = time.process_time() - began
        cells = [
            f"{K}",
            f"{size:,}",
            f"{plan.steps:,}",
            f"{1e3 * pace.step():.2f}",
            f"{1e3 * pace.cut():.2f}",
        ]
        cells += [f"{said:.1f}", f"{took:.1f}", f"{took / said:.2f}"]
        yield cells, Constants(pace.step() / size, pace.cut() / size)


def seconds(K: int, N: int, W: int, of: Constants, joint: bool) -> float:
    """Of one run of RTL: searches shared out over W ranks; joint training on one of them, or on all."""
    step = of.step * N
    search = ROUNDS * -(-K // W) * (T * step + of.cut * N)
    exchange = 2 * (W - 1) / W * 4 * N / BANDWIDTH
    return search + K * STEPS * (step / W + exchange if joint and W > 1 else step)


def memory(K: int, N: int) -> float:
    """Bytes of one process: theta0, theta, its gradient, the product, two moments, step counts, K masks."""
    return (7 * 4 + K) * N


def file(K: int, N: int, density: float = 0.25) -> float:
    """Bytes of a ticket file, at most: the union of the tickets and a bit for each position."""
    return 4 * N * min(1.0, K * density) + K * N / 8


def size(count: float) -> str:
    """Bytes for readers."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{count / one:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def duration(value: float) -> str:
    """Seconds for readers; years where it is hopeless."""
    years, days = value / (365.25 * 86400), value / 86400
    return f"{years:,.0f} years" if years >= 2 else f"{days:,.0f} days" if days >= 2 else clock(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---:"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    few = [(2, 10**5), (10, 10**5), (2, 10**6), (4, 10**6), (2, 10**7)]
    found = list(measured(few[:2] if "quick" in sys.argv else few))
    print(describe())
    head = ["K", "N", "steps", "a step, ms", "a cut, ms", "planned, s", "taken, s", "ratio"]
    print(table(head, [cells for cells, _ in found]))
    of = found[-1][1]
    print(f"a step: {1e9 * of.step:.1f} ns for each weight, a cut: {1e9 * of.cut:.1f} ns\n")
    rows = []
    for N in SIZES:
        for K in TICKETS:
            times = [duration(seconds(K, N, W, of, joint)) for joint in (False, True) for W in WORKERS]
            rows.append([f"{N:.0e}", f"{K:,}", *times[:3], *times[4:], size(memory(K, N)), size(file(K, N))])
    head = ["N", "K", *(f"{W} ranks" for W in WORKERS), *(f"{W} joint" for W in WORKERS[1:])]
    print(table([*head, "memory", "file"], rows))


if __name__ == "__main__":
    main()
