"""The U-Net of RTL's speech enhancement (arXiv 2601.22141, Appendix D): a complex ratio mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tombola.lab.models.ghostnet import kaiming_

ENCODER = (12, 12, 12, 24, 48)
DECODER = (24, 12, 12, 12, 2)
DEVIATION = 0.1  # of the first masks from one: training starts from the mixture as it is, not from noise


class SpeechUNet(nn.Module):
    """Spectrogram of a mixture in, spectrogram of the speech in it out.

    ``[B, 2 or more, frames, bins]`` float to ``[B, 2, frames, bins]``: real and imaginary parts, frames
    in time, ``bins`` one more than a multiple of 32 (513). The output is the complex product of the first
    two input channels with a mask that the network predicts; further input channels (a context) go to the
    first convolution and nowhere else. 37,368 convolution weights, 3×3, the first and the last layer 3×5
    (3 in time, 5 in frequency).

    What the paper leaves open, and is chosen here: the stride (1, 2) halves the frequency axis and leaves
    time alone, as the printed shapes have it; the first convolution sees the spectrogram over its root mean
    square, so that loudness does not matter; the mask ``M`` is one plus a tenth of what the last layer
    gives, bounded as in arXiv 1903.03107, ``tanh(|M|) M / |M|``.

    >>> SpeechUNet()(torch.randn(2, 2, 5, 513)).shape
    torch.Size([2, 2, 5, 513])
    """

    def __init__(self, channels: int = 2, generator: torch.Generator | None = None) -> None:
        super().__init__()
        down, up, cin = [], [], channels
        for level, cout in enumerate(ENCODER):
            down.append(_layer(_downsampling(cin, cout, 3 if level else 5), cout))
            cin = cout
        for level, cout in enumerate(DECODER[:-1]):
            up.append(_layer(_upsampling(cin, cout), cout))
            cin = cout + ENCODER[-2 - level]
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.mask = _upsampling(cin, DECODER[-1], 5, bias=True)
        kaiming_(self, generator)
        fan_in = cin * math.prod(self.mask.kernel_size) / math.prod(self.mask.stride)
        nn.init.normal_(self.mask.weight, std=fan_in**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """The enhanced spectrogram."""
        mixture, skips = x[:, :2], []
        h = torch.cat([levelled(mixture), x[:, 2:]], 1)
        for layer in self.down:
            h = layer(h)
            skips.append(h)
        skips.pop()
        for layer in self.up:
            h = torch.cat([layer(h), skips.pop()], 1)
        one = mixture.new_tensor([1.0, 0.0]).view(1, 2, 1, 1)
        return product(bounded(one + DEVIATION * self.mask(h)), mixture)


def levelled(x: Tensor) -> Tensor:
    """Spectrograms ``[B, C, frames, bins]`` over the root mean square of their complex numbers; 0 stays 0."""
    level = x.square().sum(1, keepdim=True).mean((1, 2, 3), keepdim=True)
    return x * level.clamp(min=1e-12).rsqrt()


def bounded(mask: Tensor) -> Tensor:
    """Complex numbers ``[B, 2, ...]`` with magnitudes below 1, phases kept."""
    magnitude = mask.square().sum(1, keepdim=True).add(1e-8).sqrt()
    return mask * (magnitude.tanh() / magnitude)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The complex product of ``[B, 2, ...]``.

    >>> product(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])).tolist()  # i · i
    [[-1.0, 0.0]]
    """
    (ar, ai), (br, bi) = a.unbind(1), b.unbind(1)
    return torch.stack([ar * br - ai * bi, ar * bi + ai * br], 1)


def _layer(convolution: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ELU(inplace=True))


def _downsampling(cin: int, cout: int, bins: int) -> nn.Conv2d:
    """Stride (1, 2): n bins, n odd, to (n + 1) / 2."""
    return nn.Conv2d(cin, cout, (3, bins), stride=(1, 2), padding=(1, bins // 2), bias=False)


def _upsampling(cin: int, cout: int, bins: int = 3, bias: bool = False) -> nn.ConvTranspose2d:
    """Stride (1, 2): n bins to 2n − 1."""
    return nn.ConvTranspose2d(cin, cout, (3, bins), stride=(1, 2), padding=(1, bins // 2), bias=bias)
