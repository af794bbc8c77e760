"""A small convolutional network for 8×8 and similar images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tombola.lab.models.ghostnet import conv_bn, kaiming_


class SmallConvNet(nn.Module):
    """Three 3×3 convolutions with batch norm, average pooling, linear classifier.

    ``[B, channels, H, W]`` to ``[B, num_classes]``; 18,576 prunable weights by default.

    >>> SmallConvNet()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int = 10, channels: int = 1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *conv_bn(channels, 16, 3),
            nn.ReLU(),
            *conv_bn(16, 32, 3, stride=2),
            nn.ReLU(),
            *conv_bn(32, 48, 3),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(48, num_classes)
        kaiming_(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.classifier(self.layers(x).mean((2, 3)))
