"""LeNet: two convolutions and two linear layers for 32×32 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tombola.lab.models.ghostnet import kaiming_

LENET_5 = (6, 16, 120, 84)  # LeCun et al., 1998
WIDE = (20, 50, 800, 500)  # of continual learning: WSN (Kang et al., ICML 2022) and those it compares with


class LeNet(nn.Module):
    """Two 5×5 convolutions with ReLU and pooling, two linear layers, linear classifier.

    ``[B, 3, 32, 32]`` to ``[B, num_classes]``; 60,930 prunable weights, and 1,426,500 in `WIDE`.

    >>> LeNet(5)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        generator: torch.Generator | None = None,
        widths: tuple[int, int, int, int] = LENET_5,
    ) -> None:
        super().__init__()
        a, b, c, d = widths
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, a, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(a, b, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(25 * b, c), nn.ReLU(), nn.Linear(c, d), nn.ReLU()),
        )
        self.classifier = nn.Linear(d, num_classes)
        kaiming_(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.classifier(self.layers(x))
