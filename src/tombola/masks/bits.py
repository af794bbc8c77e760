"""Masks at one bit for each weight: what tickets are kept as, in memory and in files.

The first weight is the highest bit of the first byte, as NumPy's ``packbits`` has it; what the last byte has
left is zero. Shape letters: N weights, M = ceil(N / 8) bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tombola._utils.torch_state import ordinary


def packed(mask_N: Tensor) -> Tensor:
    """The bits of a mask, or of several: uint8 ``[..., M]`` from booleans ``[..., N]`` on a CPU.

    >>> packed(torch.tensor([[True, False, True], [False, True, False]])).tolist()
    [[160], [64]]
    """
    return torch.from_numpy(np.packbits(mask_N.numpy(), axis=-1))


def unpacked(bits_M: Tensor, n: int) -> Tensor:
    """The inverse: booleans ``[..., n]``, in memory of their own on the device of the bits.

    >>> unpacked(torch.tensor([160], dtype=torch.uint8), 3).tolist()
    [True, False, True]
    """
    if bits_M.is_cpu and ordinary([bits_M]):
        return torch.from_numpy(np.unpackbits(bits_M.numpy(), axis=-1, count=n).view(np.bool_))
    places = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=bits_M.device)
    return (bits_M[..., None] & places).ne(0).flatten(-2)[..., :n]
