"""Outputs by routing: of the likeliest ticket, or of the two likeliest, mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tombola.objectives.classes import mask_logits


def mixed(outputs: Sequence[Any], shares: Sequence[Tensor], classes: Sequence[Tensor | None] = ()) -> Any:
    """The mean of the outputs of one or two tickets per sample, weighed.

    Tickets that answer with different classes have no logits in common. Of them it is probabilities that are
    weighed, and the outputs are their logarithms, very low for classes of neither.

    Args:
        outputs: of each of them, ``[B, ...]`` or any structure of tensors.
        shares: the weight of each, ``[B]``; they sum to one (`Routed.likeliest`).
        classes: with which each answers, boolean ``[B, C]``; None or nothing for all outputs.

    >>> mixed([torch.zeros(1, 1), torch.ones(1, 1)], [torch.tensor([0.75]), torch.tensor([0.25])]).tolist()
    [[0.25]]
    """

    def weighed(*parts: Tensor) -> Tensor:
        return sum(  # type: ignore[return-value]
            part * share.to(part).view(-1, *[1] * (part.ndim - 1))
            for part, share in zip(parts, shares, strict=True)
        )

    if len(outputs) == 1:
        return outputs[0]
    if known := [rows for rows in classes if rows is not None]:
        p = weighed(*(mask_logits(each, own).softmax(1) for each, own in zip(outputs, known, strict=True)))
        return p.clamp(min=torch.finfo(p.dtype).tiny).log()  # finite, so that gradients are
    return tree_map(weighed, *outputs)
