"""Named tensors as slices of one flat vector.

Everything the paper says of masks and weights is said of vectors in ``R^d``. A `Layout` lets the code
say it too: ``theta_N * mask_N`` is one multiplication, a mask is one boolean vector, the number of kept
weights is one sum, and an optimiser steps one tensor instead of a hundred.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from tombola._utils.errors import ScopeError
from tombola._utils.words import counted, shortened, table


@dataclass(frozen=True)
class Layout:
    """Names and shapes, in order, of tensors that lie one after another in a flat vector.

    >>> layout = Layout(("a", "b"), ((2, 3), (4,)))
    >>> layout.size
    10
    >>> {name: tuple(t.shape) for name, t in layout.unflatten(torch.zeros(10)).items()}
    {'a': (2, 3), 'b': (4,)}
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        rows = zip(self.names, map(list, self.shapes), self.sizes, strict=True)
        shown, more = shortened([[name, str(shape), f"{size:,}"] for name, shape, size in rows])
        title = f"{counted(len(self.names), 'tensor')}, {counted(self.size, 'number')}"
        return "\n".join([title, *table(["name", "shape", "numbers"], shown, (0, 1)), *more])

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """The layout of these tensors, in their order."""
        return cls(tuple(tensors), tuple(tuple(t.shape) for t in tensors.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The places where tensors begin, and the end: one more than there are tensors."""
        return tuple(itertools.accumulate(self.sizes, initial=0))

    @property
    def size(self) -> int:
        """Number of entries of the flat vector (N)."""
        return self.bounds[-1]

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A new flat vector ``[N]`` from named tensors of these shapes (others are ignored).

        Raises:
            ScopeError: several dtypes, which one vector cannot hold.
        """
        if not self.names:
            return torch.zeros(0)
        parts = [tensors[name].reshape(-1) for name in self.names]
        if len({part.dtype for part in parts}) > 1:
            dtypes = {name: str(tensors[name].dtype) for name in self.names}
            raise ScopeError(f"parameters of several dtypes: cast the model to one. {dtypes}")
        return torch.cat(parts)

    def unflatten(self, flat_N: Tensor) -> dict[str, Tensor]:
        """Named views into ``flat_N`` (``[..., N]``; leading dimensions stay)."""
        lead = flat_N.shape[:-1]
        parts = flat_N.split(self.sizes, dim=-1)
        named = zip(self.names, self.shapes, parts, strict=True)
        return {name: part.view((*lead, *shape)) for name, shape, part in named}
