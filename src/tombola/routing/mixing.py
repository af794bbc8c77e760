"""Outputs by routing: of the likeliest ticket, or of the two likeliest, mixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from tombola.objectives.classes import among
from tombola.routing.routed import Routed


def mixed(
    routed: Routed,
    run: Callable[[list[str]], Any],
    count: int,
    allowed: Callable[[list[str]], Tensor | None] = lambda names: None,  # noqa: ARG005
) -> Any:
    """Outputs of the ticket of each sample, or the mean of two weighed by their posteriors.

    Tickets that answer with different classes have no logits in common: of them it is probabilities that are
    weighed, and the outputs are their logarithms.

    Args:
        routed: who answers.
        run: from one ticket name per sample to outputs ``[B, ...]``, of any structure.
        count: 1 or 2.
        allowed: from names to the classes with which they answer (`tombola.objectives.classes`).

    >>> import torch
    >>> routed = Routed(("a", "b"), torch.tensor([[0.75, 0.25]]).log(), torch.ones(1), "gate")
    >>> mixed(routed, lambda names: torch.tensor([[0.0 if n == "a" else 1.0] for n in names]), 2).tolist()
    [[0.25]]
    """
    if count == 1:
        return run(routed.names)
    top = routed.scores_BK.topk(min(2, len(routed.tickets)), 1)
    shares = top.values.softmax(1)
    pairs = [[routed.tickets[k] for k in column.tolist()] for column in top.indices.T]
    outputs, classes = [run(names) for names in pairs], [allowed(names) for names in pairs]
    if known := [rows for rows in classes if rows is not None]:
        outputs = [among(each, rows).softmax(1) for each, rows in zip(outputs, known, strict=True)]

    def weighed(*parts: Tensor) -> Tensor:
        return sum(  # type: ignore[return-value]
            part * shares[:, i].to(part).view(-1, *[1] * (part.ndim - 1)) for i, part in enumerate(parts)
        )

    found = tree_map(weighed, *outputs)
    return found.log() if known else found
