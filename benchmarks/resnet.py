"""ResNet-20 for 32×32 images (He et al., arXiv 1512.03385, Section 4.2): a network of plain convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tombola.lab.models.ghostnet import conv_bn, kaiming_


class Block(nn.Module):
    """Two 3×3 convolutions and the shortcut around them, which is a 1×1 convolution where sizes change."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = conv_bn(cin, cout, 3, stride), conv_bn(cout, cout, 3)
        same = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if same else conv_bn(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))) + self.shortcut(x))


class ResNet20(nn.Module):
    """``[B, 3, 32, 32]`` to ``[B, 10]``; three stages of ``width``, twice and four times as many channels."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.stem = conv_bn(3, width, 3)
        cins = [width, width, width, width, *[2 * width] * 3, *[4 * width] * 2]
        couts = [*[width] * 3, *[2 * width] * 3, *[4 * width] * 3]
        strides = [1, 1, 1, 2, 1, 1, 2, 1, 1]
        self.blocks = nn.Sequential(*map(Block, cins, couts, strides))
        self.classifier = nn.Linear(4 * width, 10)
        kaiming_(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return self.classifier(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
