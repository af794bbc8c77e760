"""Spectrograms (1,024 samples a window, 256 a step, Hann) and the scale-invariant signal-to-noise ratio.

Shape letters: B batch, T samples in time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola._utils.errors import DataError

WINDOW, HOP = 1024, 256


def spectrogram(waves: Tensor) -> Tensor:
    """Waveforms ``[B, T]`` to real and imaginary parts ``[B, 2, frames, bins]``.

    There are ``T // 256 + 1`` frames and 513 bins; ``T`` is at least 513, half a window (reflected at the
    ends).

    >>> spectrogram(torch.zeros(3, 16_000)).shape
    torch.Size([3, 2, 63, 513])
    """
    window = torch.hann_window(WINDOW, dtype=waves.dtype, device=waves.device)
    parts = torch.stft(waves, WINDOW, HOP, window=window, return_complex=True)
    return torch.view_as_real(parts).permute(0, 3, 2, 1).contiguous()


def waveform(x: Tensor, length: int) -> Tensor:
    """The inverse of `spectrogram`: ``[B, 2, frames, bins]`` to ``[B, length]``.

    Raises:
        DataError: so many samples have more frames than there are.

    >>> waves = torch.randn(3, 16_000)
    >>> torch.allclose(waveform(spectrogram(waves), 16_000), waves, atol=1e-5)
    True
    """
    if length >= (longest := x.shape[2] * HOP):
        raise DataError(
            f"a spectrogram of {x.shape[2]} frames holds fewer than {longest:,} samples, not {length:,}: "
            "make inputs and targets from waveforms of one length"
        )
    window = torch.hann_window(WINDOW, dtype=x.dtype, device=x.device)
    parts = torch.view_as_complex(x[:, :2].permute(0, 3, 2, 1).contiguous())
    return torch.istft(parts, WINDOW, HOP, window=window, length=length)


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
