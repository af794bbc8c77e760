"""Selecting by arithmetic on the bits of numbers: no branches, and what is left out keeps its bits.

``torch.where`` and ``masked_fill`` branch at every entry on a CPU, which a mask without a pattern makes
slower than two or three passes of bitwise arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


def bits_of(mask: Tensor, like: Tensor) -> Tensor:
    """All bits of a number set where the mask is True, none where it is False."""
    return mask.to(_INTEGER[like.element_size()]).neg_()


def keep(values: Tensor, bits: Tensor, out: Tensor | None = None) -> Tensor:
    """``values`` where the bits are set, exactly +0.0 elsewhere (of NaN and infinity, too).

    >>> keep(torch.tensor([1.5, torch.nan]), bits_of(torch.tensor([True, False]), torch.rand(2))).tolist()
    [1.5, 0.0]
    """
    out = torch.empty_like(values) if out is None else out
    torch.bitwise_and(values.detach().view(bits.dtype), bits, out=out.view(bits.dtype))
    return out


def put(old: Tensor, new: Tensor, bits: Tensor | None) -> None:
    """``old ← new`` in place where the bits are set; elsewhere its bits stay. ``new`` is used up."""
    if bits is None:
        old.copy_(new)
    else:
        old, new = old.detach().view(bits.dtype), new.detach().view(bits.dtype)
        old.bitwise_xor_(new.bitwise_xor_(old).bitwise_and_(bits))
