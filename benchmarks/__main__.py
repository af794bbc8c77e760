"""``python -m benchmarks [--full] [--only NAME]``: measure, print, and write the performance page."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from datetime import date

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: other programs may share the cores

from benchmarks import (
    compact,
    data_path,
    end_to_end,
    executors,
    growth,
    iterative,
    machine,
    optimizer,
    page,
    scaling,
    selection,
    service,
    serving,
    sets,
    similarity,
    sparse,
    training,
)
from benchmarks.files import decoding, ticket_file
from benchmarks.row import Row

BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "optimizer_step_adam": optimizer.steps("adam"),
    "optimizer_step_adamw": optimizer.steps("adamw"),
    "optimizer_step_sgd": optimizer.steps("sgd"),
    "masked_step_ghostnet": training.step_ghostnet,
    "masked_step_mlp": training.step_mlp,
    "data_share": data_path.data_share,
    "select_10m": selection.select_10m,
    "select_100m": selection.select_100m,
    "iterative_prune": iterative.iterative,
    "ticket_file": ticket_file,
    "mask_decoding": decoding,
    "compact_speedup": compact.compact_speedup,
    "compact_speedup_onnx": compact.compact_speedup_onnx,
    "sparse_linear": sparse.sparse_linear,
    "ticket_switch": serving.ticket_switch,
    "switch_vs_pass": serving.switch_vs_pass,
    "mixed_batch": serving.mixed_batch,
    "threads": serving.threads,
    "maskset": sets.mask_set,
    "similarity": similarity.similarity,
    "round_k10": executors.round_k10,
    "rtl_cifar10_minutes": end_to_end.end_to_end,
    "scaling": scaling.scaling,
    "growth": growth.growth,
    "service": service.service,
}
# What no target names; a quick run leaves their rows as they are.
FULL = {"iterative_prune", "sparse_linear", "maskset", "growth", "service"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all rows, more repeats, larger sizes")
    parser.add_argument("--only", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--dry", action="store_true", help="print only; leave docs/performance.* as they are")
    arguments = parser.parse_args()
    here, today = machine.describe(), date.today().isoformat()
    print(here)
    rows: list[Row] = []
    chosen = [name for name in BENCHMARKS if arguments.full or name not in FULL]
    for name in [arguments.only] if arguments.only else chosen:
        start = time.perf_counter()
        new = BENCHMARKS[name](arguments.full)
        rows += new
        print(f"\n{name} ({time.perf_counter() - start:.1f} s)", *map(line, new), sep="\n  ", flush=True)
    if not arguments.dry:
        page.update(rows, here, today)


def line(row: Row) -> str:
    """One row for the terminal."""
    spread = f" [{page.number(row.spread[0])} to {page.number(row.spread[1])}]" if row.spread else ""
    missed = row.target is not None and row.value > row.target
    target = f", target {row.target:g}{' MISSED' if missed else ''}" if row.target is not None else ""
    return f"{row.name} {page.number(row.value)} {row.unit}{spread}{target}; against {row.against}"


if __name__ == "__main__":
    main()
