"""Sound files: read as one channel at 16 kHz, whatever they hold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import signal

from tombola._utils.errors import DataError

RATE = 16_000
Waves = NDArray[np.float32]


def open_sound(path: Path | str) -> soundfile.SoundFile:
    """An open sound file; `DataError` if it is missing or no sound."""
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}")
    try:
        return soundfile.SoundFile(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise DataError(
            f"{path} is not a sound file that can be read ({reason}): WAV, FLAC, OGG and MP3 can"
        ) from None


def read(path: Path | str, rate: int = RATE) -> Waves:
    """A sound file as one channel ``[T]`` at ``rate`` Hz: channels are averaged, other rates resampled.

    Raises:
        DataError: the file is missing, no sound, empty, or holds NaN or infinite values.
    """
    with open_sound(path) as file:
        waves = checked(file.read(dtype="float32", always_2d=True), path)
        return resample(waves.mean(1), file.samplerate, rate)


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
    made: Waves = signal.resample_poly(waves, to // common, rate // common, axis=0).astype(np.float32)
    return made


def write(path: Path | str, waves: Waves, rate: int = RATE) -> Path:
    """Write ``[T]`` or ``[T, channels]``, floating, as 16-bit WAV; values beyond ±1 are cut off.

    Raises:
        DataError: whole numbers, whose scale is not known.
    """
    if not np.issubdtype(np.asarray(waves).dtype, np.floating):
        raise DataError(f"sound is floating, from -1 to 1: got {np.asarray(waves).dtype}")
    soundfile.write(str(path), np.clip(waves, -1, 1), rate, subtype="PCM_16", format="WAV")
    return Path(path)
