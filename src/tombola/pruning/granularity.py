"""Granularity: which weights of a layer are kept or pruned together.

``weight``        each on its own.
``channel``       all weights of an output channel (a row of a linear layer).
``block:RxC``     blocks of R output channels times C columns of the matrix ``[out, in · kernel]``.
``N:M``           of every M consecutive weights N are kept: a pattern, see `Pattern` (``N:M/input``).

Layers are looked at as ``[out, in / groups, *kernel]``. That is how PyTorch stores linear layers and
convolutions; a transposed convolution is stored as ``[in, out / groups, *kernel]`` and is turned
round first (`transposed` says which ones are).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tombola._utils import spec
from tombola._utils.errors import PruningError, UsageError
from tombola.masks.layout import Layout
from tombola.masks.prunable import turned


class Granularity(spec.Spec):
    """Base of the granularities."""

    @abstractmethod
    def groups(self, at: Tensor) -> Tensor:
        """Positions ``[out, in, *kernel]`` to groups ``[G, s]``."""


@dataclass(frozen=True)
class Weight(Granularity):
    """Every weight on its own."""

    form = "weight"

    def groups(self, at: Tensor) -> Tensor:
        """Groups of one, ``[G, 1]``."""
        return at.reshape(-1, 1)


@dataclass(frozen=True)
class Channel(Granularity):
    """All weights of an output channel (Li et al., arXiv 1608.08710)."""

    form = "channel"

    def groups(self, at: Tensor) -> Tensor:
        """Positions ``[out, in, *kernel]`` to groups ``[out, in · kernel]``."""
        return at.flatten(1)


@dataclass(frozen=True)
class Block(Granularity):
    """Blocks of ``rows`` output channels times ``columns`` of the matrix ``[out, in · kernel]``."""

    form = "block:{rows}x{columns}"
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise UsageError(f"a block has at least one row and column: got {self.rows}x{self.columns}")

    def groups(self, at: Tensor) -> Tensor:
        """Positions ``[out, in, *kernel]`` to groups ``[G, rows · columns]``, row of blocks by row."""
        matrix = at.flatten(1)
        if matrix.shape[0] % self.rows or matrix.shape[1] % self.columns:
            shape = "x".join(map(str, matrix.shape))
            raise PruningError(f"its matrix is {shape}, which {self.rows}x{self.columns} does not divide")
        blocks = matrix.unflatten(0, (-1, self.rows)).unflatten(2, (-1, self.columns))
        return blocks.transpose(1, 2).reshape(-1, self.rows * self.columns)


@dataclass(frozen=True)
class Pattern(Granularity):
    """Of every ``of`` consecutive weights, ``keep`` are kept: N:M sparsity (arXiv 2102.04010, 2104.08378).

    ``along`` says what consecutive means: along a row of the matrix ``[out, in · kernel]`` (``row``), along
    the input channels at one place of the kernel (``input``, the layout that NVIDIA's sparse tensor cores
    want of convolutions in channels-last order), or along the output channels (``output``). For linear
    layers ``row`` and ``input`` are the same. The pattern fixes the density of every layer, N / M.
    """

    form = "{keep}:{of}[/{along}]"
    keep: int
    of: int
    along: str = "row"

    def __post_init__(self) -> None:
        if not 0 < self.keep < self.of or self.along not in ("row", "input", "output"):
            raise UsageError(
                f"a pattern N:M has 0 < N < M, along row, input or output: got {self.keep}:{self.of} along "
                f"{self.along}"
            )

    def groups(self, at: Tensor) -> Tensor:
        """Positions ``[out, in, *kernel]`` to windows ``[G, of]``."""
        lines = at.flatten(1) if self.along == "row" else at.movedim(int(self.along == "input"), -1)
        if lines.shape[-1] % self.of:
            count = lines.shape[-1]
            raise PruningError(
                f"its {count} weights along the {self.along} axis are no multiple of {self.of}"
            )
        return lines.reshape(-1, self.of)

    def best(self, scores_GM: Tensor, left_GM: Tensor) -> Tensor:
        """The ``keep`` highest of every window, boolean ``[G, of]``; of equal scores the later is kept."""
        scores, left = scores_GM.T.contiguous(), left_GM.T.contiguous()
        beats = torch.zeros(left.shape, dtype=torch.int16, device=left.device)  # in its window
        for late in range(self.of):  # pairs of places in the window: M² / 2 passes over N / M windows
            for early in range(late):
                first = left[early] & (~left[late] | (scores[early] > scores[late]))
                beats[early] += first
                beats[late] += ~first
        return (beats >= self.of - self.keep).T & left_GM


KINDS: tuple[type[Granularity], ...] = (Weight, Channel, Block, Pattern)


def parse(granularity: str | spec.Spec) -> Granularity:
    """A granularity from its text, or itself."""
    return spec.parse(granularity, KINDS, "granularity")


def transposed(model: nn.Module) -> dict[str, int]:
    """Names of the weights that are stored input first, with their numbers of groups.

    Transposed convolutions, and ``Conv1D`` of ``transformers``.

    >>> transposed(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2)))
    {'1.weight': 2}
    """
    groups = {id(_stored(m)): turned(m) for m in model.modules() if turned(m)}
    return {name: groups[id(p)] for name, p in model.named_parameters() if id(p) in groups}


def _stored(layer: nn.Module) -> object:
    """The parameter that a layer's weight is, or is made of by a reference or adapters."""
    if is_parametrized(layer, "weight"):
        return getattr(layer.get_submodule("parametrizations.weight"), "original", None)
    return layer.weight


def by_output(flat_n: Tensor, shape: Sequence[int], groups: int = 0) -> tuple[Tensor, int]:
    """The weights of a layer as a view whose first dimensions are its output channels, and the last of these.

    ``groups`` are those of a weight that is stored input first (`transposed`), 0 of any other.

    >>> by_output(torch.arange(6), (2, 3))
    (tensor([[0, 1, 2],
            [3, 4, 5]]), 0)
    >>> by_output(torch.arange(6), (2, 3), groups=1)
    (tensor([[[0, 3],
             [1, 4],
             [2, 5]]]), 1)
    """
    view = flat_n.view(tuple(shape) if len(shape) > 1 else (-1, 1))
    return (view.unflatten(0, (groups, -1)).transpose(1, 2), 1) if groups else (view, 0)


def members(kind: Granularity, scope: Layout, transposed: Mapping[str, int]) -> list[Tensor]:
    """Per layer the flat positions of the weights of each group, int64 ``[G, s]``."""
    found = []
    for name, shape in zip(scope.names, scope.shapes, strict=True):
        at = torch.arange(prod(shape))
        if not at.numel():
            found.append(at.reshape(0, 1))
            continue
        at, first = by_output(at, shape, transposed.get(name, 0))
        try:
            found.append(kind.groups(at.flatten(0, first)))
        except PruningError as error:
            raise PruningError(f"{name}: {error}; exclude it or choose another granularity") from None
    return found
