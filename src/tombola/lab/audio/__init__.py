"""Sound: spectrograms, files, and mixtures of known signal-to-noise ratio."""

from tombola.lab.audio.files import RATE, read, resample, write
from tombola.objectives.si_snr import mix, rms, si_snr
from tombola.objectives.stft import BINS, HOP, WINDOW, spectrogram, waveform

__all__ = [
    "BINS",
    "HOP",
    "RATE",
    "WINDOW",
    "mix",
    "read",
    "resample",
    "rms",
    "si_snr",
    "spectrogram",
    "waveform",
    "write",
]
