"""GhostNet (Han et al., arXiv 1911.11907), cut after its ninth bottleneck as in RTL's CIFAR runs.

Written for 32×32 images. With its default arguments it has exactly 125,832 prunable weights: every
convolution, without the squeeze-and-excitation blocks, the norms and the classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola._utils.torch_state import transformed

# kernel, expansion, output channels, squeeze-and-excitation, stride
BOTTLENECKS: tuple[tuple[int, int, int, bool, int], ...] = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
)


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm; the spatial size is kept up to the stride."""
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class GhostModule(nn.Module):
    """Half of the channels from a 1×1 convolution, half from a cheap depthwise 3×3 over those."""

    def __init__(self, cin: int, cout: int, relu: bool) -> None:
        super().__init__()
        half = cout // 2
        self.primary = conv_bn(cin, half, 1)
        self.cheap = conv_bn(half, half, 3, groups=half)
        self.act: nn.Module = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, cin, H, W]`` to ``[B, cout, H, W]``."""
        primary = self.act(self.primary(x))
        return torch.cat([primary, self.act(self.cheap(primary))], dim=1)


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled channels (reduction 4, hard sigmoid).

    Its weights are parameters of its own and no layers, so the default scope leaves them dense.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = -(-(channels // 4) // 4) * 4
        self.reduce = nn.Parameter(torch.empty(hidden, channels))
        self.reduce_bias = nn.Parameter(torch.empty(hidden))
        self.expand = nn.Parameter(torch.empty(channels, hidden))
        self.expand_bias = nn.Parameter(torch.empty(channels))
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        hidden = torch.relu(functional.linear(x.mean((2, 3)), self.reduce, self.reduce_bias))
        gate = functional.hardsigmoid(functional.linear(hidden, self.expand, self.expand_bias))
        return x * gate[:, :, None, None]


class GhostBottleneck(nn.Module):
    """Ghost expansion, depthwise stride, gates, ghost projection, and the shortcut around them."""

    def __init__(self, cin: int, kernel: int, exp: int, cout: int, se: bool, stride: int) -> None:
        super().__init__()
        self.expand = GhostModule(cin, exp, relu=True)
        self.down = conv_bn(exp, exp, kernel, stride, groups=exp) if stride > 1 else nn.Identity()
        self.se = SqueezeExcite(exp) if se else nn.Identity()
        self.project = GhostModule(exp, cout, relu=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or cin != cout:
            depthwise = conv_bn(cin, cin, kernel, stride, groups=cin)
            self.shortcut = nn.Sequential(*depthwise, *conv_bn(cin, cout, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, cin, H, W]`` to ``[B, cout, H / stride, W / stride]``."""
        body: Tensor = self.project(self.se(self.down(self.expand(x))))
        return body + self.shortcut(x)


class GhostNet(nn.Module):
    """The backbone of RTL's CIFAR experiments (arXiv 2601.22141, Appendix A).

    ``[B, 3, 32, 32]`` images to ``[B, num_classes]`` logits. Kaiming initialisation, drawn from
    ``generator``; the classifier comes last, so that networks with other heads share all the rest.

    >>> import torch
    >>> net = GhostNet(10, torch.Generator().manual_seed(0))
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, stride=2)
        blocks, cin = [], 16
        for kernel, exp, cout, se, stride in BOTTLENECKS:
            blocks.append(GhostBottleneck(cin, kernel, exp, cout, se, stride))
            cin = cout
        self.blocks = nn.Sequential(*blocks)
        self.last = conv_bn(cin, 184, 1)
        self.head = conv_bn(184, 128, 1)
        self.classifier = nn.Linear(128, num_classes)
        kaiming_(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to logits ``[B, num_classes]``."""
        if torch.compiler.is_compiling() or not transformed():  # vmap knows no memory formats
            x = x.contiguous(memory_format=torch.channels_last)  # 1.8 times faster on a CPU
        x = self.blocks(torch.relu(self.stem(x)))
        x = torch.relu(self.last(x)).mean((2, 3), keepdim=True)
        x = torch.relu(self.head(x)).flatten(1)
        return self.classifier(x)


def kaiming_(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Kaiming-normal convolutions and linear layers (fan-in, ReLU gain), zero biases, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear | SqueezeExcite):
            for parameter in layer.parameters(recurse=False):
                if parameter.ndim > 1:
                    nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
                else:
                    nn.init.zeros_(parameter)
