"""What sparse kernels give for single-weight tickets: one linear layer, CSR over dense."""

from __future__ import annotations

import warnings

import torch
from torch.nn import functional

from benchmarks.measure import interleave
from benchmarks.row import Row, ratio
from benchmarks.setting import generator

WIDTHS, SPARSITIES, BATCHES = (512, 2048), (0.5, 0.75, 0.9, 0.95), (1, 32, 320)


warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


@torch.no_grad()
def sparse_linear(full: bool) -> list[Row]:
    """``torch.sparse_csr_tensor`` times a batch of columns, over the dense layer on a batch of rows.

    2:4 patterns (``torch.sparse.to_sparse_semi_structured``) run on GPUs only: no row here.
    """
    rows = []
    for width in WIDTHS:
        dense = torch.randn(width, width, generator=generator())
        scores = torch.rand(width, width, generator=generator(1))
        sparse = {s: (dense * (scores > s)).to_sparse_csr() for s in SPARSITIES}
        for B in BATCHES:
            x = torch.randn(B, width, generator=generator(2))
            columns = x.t().contiguous()  # what the kernel wants: turning it is not counted
            sides = {f"{s:.0%}": (lambda w=w, c=columns: w @ c) for s, w in sparse.items()}
            sides["dense"] = lambda dense=dense, x=x: functional.linear(x, dense)
            times = interleave(sides, 200 if full else max(8, 60 // B))
            against = f"dense layer {width}×{width}, batch {B}"
            rows += [
                ratio(f"sparse_linear_{width}_b{B}_{100 * s:.0f}", times, f"{s:.0%}", "dense", against)
                for s in SPARSITIES
            ]
    return rows
