"""Mixtures of a known signal-to-noise ratio, and what is left of the noise.

Shape letters: B batch, T samples in time.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms(waves: Tensor) -> Tensor:
    """Root mean square over the last axis, which is kept with length 1."""
    return waves.square().mean(-1, keepdim=True).sqrt()


def mix(clean: Tensor, noise: Tensor, snr: Tensor, quietest: Tensor | float = 1e-5) -> Tensor:
    """Clean signals plus noise that is scaled to a signal-to-noise ratio.

    Args:
        clean, noise: waveforms ``[B, T]``.
        snr: in dB, ``[B]``.
        quietest: noise quieter than this (root mean square, a number or ``[B, 1]``) is not scaled up any
            further: what is nearly silent stays so, and its mixture is cleaner than asked for.

    >>> mix(torch.ones(1, 4), torch.full((1, 4), 2.0), torch.tensor([0.0]))
    tensor([[2., 2., 2., 2.]])
    """
    level = rms(noise).clamp(min=torch.as_tensor(quietest))
    return clean + noise * rms(clean) / level * 10 ** (-snr[:, None] / 20)


def si_snr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Scale-invariant signal-to-noise ratio of each estimate in dB: ``[B, T]`` twice to ``[B]``.

    ``10 log10 |a s|² / |a s − ŝ|²`` with ``a = <ŝ, s> / |s|²``, both without their mean (Le Roux et al.,
    arXiv 1811.02508).
    """
    e = estimate - estimate.mean(-1, keepdim=True)
    s = clean - clean.mean(-1, keepdim=True)
    tiny = torch.finfo(e.dtype).eps
    target = ((e * s).sum(-1, keepdim=True) + tiny) / (s.square().sum(-1, keepdim=True) + tiny) * s
    ratio = (target.square().sum(-1) + tiny) / ((target - e).square().sum(-1) + tiny)
    return 10 * ratio.log10()
