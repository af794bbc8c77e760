"""What a window over several samples gives to a router, on a stream in which contexts last.

Shape letters: S samples of a split, T samples of a stream, K tickets.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tombola._utils.rng import generator
from tombola.lab.evaluation.judge import RouterEvaluator
from tombola.tickets.routing import Window

HOLD = 32  # samples for which a context lasts
WINDOWS = ((1, 0.0), (1, 2.0), (2, 0.0), (4, 0.0), (8, 0.0), (16, 0.0), (8, 0.5))  # size, margin


def stream(truth_S: Tensor, K: int, seed: int) -> Tensor:
    """An order of samples in which each context lasts for `HOLD` of them, int64 ``[T]``, all samples once."""
    order = torch.randperm(len(truth_S), generator=generator(seed, "stream"))
    pieces = [[*order[truth_S[order] == k].split(HOLD)] for k in range(K)]
    turns = max(map(len, pieces))
    return torch.cat([pieces[k][i] for i in range(turns) for k in range(K) if i < len(pieces[k])])


def windows(judge: RouterEvaluator, scores_SK: Tensor) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """By window and margin: routing accuracy, what the choices are worth, and switches, on one stream."""
    order = stream(judge.truth_S, judge.K, judge.loaded.seed)
    for size, margin in WINDOWS:
        window = Window(size, margin)
        chosen_S = torch.empty_like(judge.truth_S)
        chosen_S[order] = window(scores_SK[order])
        found = {
            "routing_accuracy": judge.right(chosen_S),
            **judge(chosen_S),
            "switches": window.switches,
            "true_switches": int((judge.truth_S[order].diff() != 0).sum()),
        }
        yield {"window": size, "margin": margin}, found
