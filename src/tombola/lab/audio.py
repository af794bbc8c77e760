"""Sound: files read as one channel at 16 kHz, spectrograms, and mixtures of known signal-to-noise ratio."""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import scipy  # its parts are imported when first used
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import DataError
from tombola.objectives.enhancement import HOP, WINDOW, si_snr, spectrogram, waveform

__all__ = ["HOP", "RATE", "WINDOW", "mix", "read", "resample", "si_snr", "spectrogram", "waveform", "write"]

RATE = 16_000
RATES = 1_000, 384_000  # of files; to resample others takes memory beyond any use
Waves = NDArray[np.float32]


def open_sound(path: Path | str, file: BinaryIO | None = None) -> soundfile.SoundFile:
    """An open sound file; `DataError` if it is missing or no sound.

    Where a ``file`` is given, open for reading, ``path`` is its name alone.
    """
    if file is None and not Path(path).is_file():
        raise DataError(f"there is no file {path}")
    try:
        found = soundfile.SoundFile(str(path) if file is None else file)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: sound without a header
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise DataError(
            f"{path} is not a sound file that can be read ({reason}): WAV, FLAC, OGG and MP3 can"
        ) from None
    if not RATES[0] <= found.samplerate <= RATES[1]:
        raise DataError(f"{path} has {found.samplerate:,} Hz: {RATES[0]:,} to {RATES[1]:,} can be read")
    return found


def read(
    path: Path | str, rate: int = RATE, *, file: BinaryIO | None = None, most: int | None = None
) -> Waves:
    """A sound file as one channel ``[T]`` at ``rate`` Hz: channels are averaged, other rates resampled.

    Args:
        path: where it is, or how a ``file`` that is given open is called.
        rate: in Hz.
        file: open for reading, if it is on no disk.
        most: moments T beyond which a sound is refused, before it is read.

    Raises:
        DataError: the file is missing, no sound, empty, too long, or holds NaN or infinite values.
    """
    with open_sound(path, file) as found:
        if most is not None and found.frames * rate > most * found.samplerate:
            raise DataError(f"{path} is longer than {most / rate:g} seconds: cut it")
        waves = checked(found.read(dtype="float32", always_2d=True), path)
        return resample(waves.mean(1), found.samplerate, rate)


def checked(waves: Waves, path: Path | str) -> Waves:
    """The samples ``[T, channels]``, or `DataError` where there are none or they are not finite."""
    if len(waves) == 0:
        raise DataError(f"{path} holds no sound: it is empty")
    if not np.isfinite(waves).all():
        raise DataError(f"{path} holds NaN or infinite samples: convert it again")
    return waves


def resample(waves: Waves, rate: int, to: int) -> Waves:
    """Sound at another rate, along the first axis; sample 0 stays in its place.

    >>> resample(np.zeros(48_000, np.float32), 48_000, 16_000).shape
    (16000,)
    """
    if rate == to:
        return waves
    common = math.gcd(rate, to)
    return scipy.signal.resample_poly(waves, to // common, rate // common, axis=0).astype(np.float32)


def write(path: Path | str, waves: Waves, rate: int = RATE) -> Path:
    """Write ``[T]`` or ``[T, channels]``, floating, as 16-bit WAV; values beyond ±1 are cut off.

    Raises:
        DataError: whole numbers, whose scale is not known.
    """
    if not np.issubdtype(np.asarray(waves).dtype, np.floating):
        raise DataError(f"sound is floating, from -1 to 1: got {np.asarray(waves).dtype}")
    soundfile.write(str(path), np.clip(waves, -1, 1), rate, subtype="PCM_16", format="WAV")
    return Path(path)


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
