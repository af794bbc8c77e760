"""Outputs by routing: of the likeliest ticket, or of the two likeliest, mixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from tombola.routing.routed import Routed


def mixed(routed: Routed, run: Callable[[list[str]], Any], count: int) -> Any:
    """Outputs of the ticket of each sample, or the mean of two weighed by their posteriors.

    Args:
        routed: who answers.
        run: from one ticket name per sample to outputs ``[B, ...]``, of any structure.
        count: 1 or 2.

    >>> import torch
    >>> routed = Routed(("a", "b"), torch.tensor([[0.75, 0.25]]).log(), torch.ones(1), "gate")
    >>> mixed(routed, lambda names: torch.tensor([[0.0 if n == "a" else 1.0] for n in names]), 2).tolist()
    [[0.25]]
    """
    if count == 1:
        return run(routed.names)
    top = routed.scores_BK.topk(min(2, len(routed.tickets)), 1)
    shares = top.values.softmax(1)
    outputs = [run([routed.tickets[k] for k in column.tolist()]) for column in top.indices.T]

    def weighed(*parts: Tensor) -> Tensor:
        return sum(  # type: ignore[return-value]
            part * shares[:, i].to(part).view(-1, *[1] * (part.ndim - 1)) for i, part in enumerate(parts)
        )

    return tree_map(weighed, *outputs)
