"""A network from coordinates to values: one picture, held in the weights of a small MLP."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from tombola._utils.errors import UsageError
from tombola.lab.models.ghostnet import kaiming_

FREQUENCIES = 8  # sine and cosine of 8 frequencies of 2 coordinates, and the coordinates: 34 inputs
OMEGA_0 = 30.0  # of every sine layer (arXiv 2006.09661, Section 3.2)


class FourierFeatures(nn.Module):
    """Coordinates and the sine and cosine of their multiples, ``[B, 2 + C]`` to ``[B, 34 + C]``.

    ``γ(v) = (v, sin(π f_i v), cos(π f_i v))`` with ``f_1 .. f_8`` in geometric steps from ``lowest`` to
    ``highest``: a coordinate runs over 2, so ``f_i`` is the number of periods across the picture. They
    are fixed (a buffer, not trained, the same for every seed and ticket). Columns after the first two,
    such as a context, come out last and as they are.

    >>> FourierFeatures()(torch.zeros(5, 3)).shape
    torch.Size([5, 35])
    """

    frequencies: Tensor

    def __init__(self, lowest: float = 1.0, highest: float = 32.0) -> None:
        super().__init__()
        steps = torch.linspace(math.log(lowest), math.log(highest), FREQUENCIES).exp()
        self.register_buffer("frequencies", math.pi * steps, persistent=False)
        self.out_features = 2 + 2 * 2 * FREQUENCIES

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates ``[B, 2]``, and whatever else, to features."""
        place = x[:, :2]
        phase = (place[:, :, None] * self.frequencies).flatten(1)
        return torch.cat([place, phase.sin(), phase.cos(), x[:, 2:]], 1)


class Sine(nn.Module):
    """``sin(ω_0 x)``, the activation of SIREN (Sitzmann et al., arXiv 2006.09661)."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return torch.sin(OMEGA_0 * x)


class CoordinateMLP(nn.Module):
    """The backbone of RTL's third experiment (arXiv 2601.22141, Appendix C): a picture as a network.

    ``[B, 2]`` coordinates from -1 to 1 to ``[B, 3]`` colours: Fourier features to 34 inputs, then an MLP
    34→128→128→128→128→3. All its weights are 53,888, and the paper prunes all of them: a scope with
    ``include=["*.weight"]``, as the output layer is dense by default. The 515 biases are not pruned.

    ``activation="relu"`` is the paper's, with Kaiming initialisation. ``"siren"`` has sines and their
    own initialisation. Both are told a context by one more column (`tombola.methods.context`).

    >>> CoordinateMLP()(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        activation: str = "relu",
        width: int = 128,
        hidden: int = 4,
        channels: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ("relu", "siren"):
            raise UsageError(f"activation is 'relu' or 'siren': got {activation!r}")
        self.features = FourierFeatures()
        sizes = [self.features.out_features, *[width] * hidden, channels]
        layers: list[nn.Module] = []
        for cin, cout in itertools.pairwise(sizes):
            layers += [nn.Linear(cin, cout), nn.ReLU() if activation == "relu" else Sine()]
        self.layers = nn.Sequential(*layers[:-1])
        initialise = kaiming_ if activation == "relu" else siren_
        initialise(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates ``[B, 2]`` (further columns reach the first layer) to colours ``[B, 3]``."""
        return self.layers(self.features(x))


def siren_(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """SIREN's initialisation (arXiv 2006.09661, Section 3.2), in place.

    Weights of the first layer are uniform in ``±1/n`` with n inputs, those of the others in
    ``±sqrt(6/n)/ω_0``, so that all sines get inputs of deviation about 1. Biases, which the paper does
    not give, are uniform in ``±1/sqrt(n)``, as in its authors' code.
    """
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(linear):
        n = layer.in_features
        bound = math.sqrt(6 / n) / OMEGA_0 if number else 1 / n
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -1 / math.sqrt(n), 1 / math.sqrt(n), generator=generator)
