"""A multilayer perceptron whose output layer has a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tombola.lab.models.ghostnet import kaiming_


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last one is called ``classifier``.

    ``[B, widths[0]]`` to ``[B, widths[-1]]``.

    >>> MLP([64, 32, 10])(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(self, widths: Sequence[int], generator: torch.Generator | None = None) -> None:
        super().__init__()
        hidden = [layer for pair in pairwise(widths[:-1]) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*hidden)
        self.classifier = nn.Linear(widths[-2], widths[-1])
        kaiming_(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors to logits."""
        return self.classifier(self.layers(x))
