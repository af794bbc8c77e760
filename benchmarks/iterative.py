"""Ten rounds of global magnitude pruning: ours beside ``torch.nn.utils.prune``, same scores, same masks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from benchmarks.measure import interleave, peak_memory
from benchmarks.row import Row, ratio
from benchmarks.setting import mlp
from tombola._utils.memory import high_water
from tombola.masks.layout import Layout
from tombola.masks.prunable import scope
from tombola.pruning import keep_top

ROUNDS, SHARE = 10, 0.2
WIDE, DEEP = 1000, 4


def theirs(net: nn.Module) -> list[Tensor]:
    """Their masks after ten rounds, in the order of the layers; the network is changed."""
    pairs = [(layer, "weight") for layer in net.modules() if isinstance(layer, nn.Linear)]
    for _ in range(ROUNDS):
        torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=SHARE)
    return [layer.weight_mask for layer, _ in pairs]


def ours(net: nn.Module, layout: Layout) -> Tensor:
    """Our mask after ten rounds, boolean ``[N]``."""
    scores_N = layout.flatten(dict(net.named_parameters())).detach().abs()
    mask_N, left = torch.ones(layout.size, dtype=torch.bool), layout.size
    for _ in range(ROUNDS):
        left -= round(SHARE * left)
        mask_N = keep_top(scores_N, left, mask_N)
    return mask_N


def iterative(full: bool) -> list[Row]:
    net = mlp(WIDE, DEEP)
    layout = scope(net, include=["*.weight"])
    same = torch.cat([mask.flatten().bool() for mask in theirs(copy.deepcopy(net))])
    if not torch.equal(ours(net, layout), same):
        raise RuntimeError("the masks of the two differ")
    sides = {"ours": lambda: ours(net, layout), "theirs": lambda: theirs(copy.deepcopy(net))}
    times = interleave(sides, 9 if full else 3, warmup=0)
    peaks = {}
    for side in (True, False):
        before, after = peak_memory(_peak, side)
        peaks[side] = after - before
    size = 4 * layout.size
    memory = Row(
        "iterative_prune_memory",
        peaks[True] / peaks[False],
        "×",
        f"peak of torch.nn.utils.prune above the network ({peaks[True] / size:.1f} over "
        f"{peaks[False] / size:.1f} times its weights)",
    )
    against = f"torch.nn.utils.prune, global L1, {layout.size / 1e6:.0f}M weights, ten rounds, equal masks"
    return [ratio("iterative_prune", times, "ours", "theirs", against), memory]


def _peak(side: bool) -> tuple[int, int]:
    net = mlp(WIDE, DEEP)
    layout = scope(net, include=["*.weight"])
    before = high_water()
    if side:
        ours(net, layout)
    else:
        theirs(net)
    return before, high_water()
