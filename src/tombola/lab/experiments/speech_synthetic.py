"""Synthetic voices and noises, for want of real ones that ship with a package. No speech: vowels only.

A voice is a train of pulses with a wandering pitch through resonances that change from syllable to
syllable; noises come in three families that differ in spectrum and in time, as the scenes do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy  # its parts are imported when first used
from numpy.typing import NDArray

from tombola.lab.audio import RATE
from tombola.lab.experiments.speech_data import Clip, to_int16

Waves = NDArray[np.float64]
VOICES = {"train": 24, "test": 8}
RECORDINGS = {"train": 6, "test": 2}  # of each label
SECONDS = 6
VOWELS = np.array(
    [[300, 2300, 3000], [400, 2000, 2550], [700, 1200, 2500], [450, 800, 2830], [325, 700, 2530]]
)  # centre frequencies of three formants, Hz


def synthetic_clips() -> list[Clip]:
    """The same clips at every call: voices, and noises of the scenes indoor, outdoor, transportation."""
    clips = []
    for split, count in VOICES.items():
        for v in range(count):
            voice = _scaled(_voice(np.random.default_rng([1, split == "test", v])))
            clips.append(Clip(voice, "speech", split, f"voice {split} {v}"))
    for number, (label, (scene, make)) in enumerate(NOISES.items()):
        for split, count in RECORDINGS.items():
            for r in range(count):
                noise = _scaled(make(np.random.default_rng([2, split == "test", r, number])))
                source = f"{label} {split} {r}"
                clips.append(Clip(noise, "noise", split, source, scene, label))
    return clips


def _scaled(waves: Waves) -> NDArray[np.int16]:
    waves = waves - waves.mean()
    return to_int16(0.7 * waves / np.abs(waves).max())


def _voice(rng: np.random.Generator) -> Waves:
    """Syllables of 0.12 to 0.35 s with short pauses, one speaker's pitch and vocal tract."""
    pitch, tract = rng.uniform(90, 240), rng.uniform(0.9, 1.15)
    parts: list[Waves] = []
    while sum(map(len, parts)) < SECONDS * RATE:
        T = int(rng.uniform(0.12, 0.35) * RATE)
        time = np.arange(T) / T
        f0 = pitch * (1 + 0.15 * np.sin(np.pi * (rng.uniform(0, 2) + rng.uniform(0, 1) * time)))
        phase = np.cumsum(f0) / RATE
        pulses = np.diff(np.floor(phase), prepend=0.0)
        breath = 0.02 * rng.standard_normal(T)
        sound = pulses + breath
        for centre in tract * VOWELS[rng.integers(len(VOWELS))] * rng.uniform(0.95, 1.05):
            sound = _resonance(sound, float(centre), 80 + 0.05 * float(centre))
        parts.append(sound * np.sin(np.pi * time) ** 0.5 / (np.abs(sound).max() + 1e-9) * rng.uniform(0.4, 1))
        if rng.random() < 0.3:
            parts.append(np.zeros(int(rng.uniform(0.05, 0.25) * RATE)))
    return np.concatenate(parts)[: SECONDS * RATE]


def _resonance(sound: Waves, centre: float, width: float) -> Waves:
    radius, angle = np.exp(-np.pi * width / RATE), 2 * np.pi * centre / RATE
    return scipy.signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)


def _white(rng: np.random.Generator) -> Waves:
    return rng.standard_normal(SECONDS * RATE)


def _band(noise: Waves, low: float, high: float) -> Waves:
    return scipy.signal.sosfilt(scipy.signal.butter(2, [low, high], "bandpass", fs=RATE, output="sos"), noise)


def _swell(rng: np.random.Generator, rate: float) -> Waves:
    """A slow positive curve, ``rate`` changes a second."""
    knots = rng.uniform(0.2, 1, int(SECONDS * rate) + 2)
    return np.interp(np.arange(SECONDS * RATE) * rate / RATE, np.arange(len(knots)), knots)


def _clock(rng: np.random.Generator) -> Waves:
    """Ticks over a faint room."""
    ticks = np.zeros(SECONDS * RATE)
    ticks[:: int(RATE / rng.uniform(2, 5))] = 1
    ringing = _resonance(ticks, rng.uniform(2000, 5000), rng.uniform(100, 300))
    return ringing / np.abs(ringing).max() + 0.01 * _white(rng)


def _hum(rng: np.random.Generator) -> Waves:
    """Harmonics of the mains and the hiss of a fan."""
    time, base = np.arange(SECONDS * RATE) / RATE, rng.choice([50.0, 60.0]) * rng.integers(1, 3)
    tones = [np.sin(2 * np.pi * base * h * time + rng.uniform(0, 6)) / h for h in range(1, 20)]
    return np.sum(tones, 0) + 0.5 * _band(_white(rng), 200, rng.uniform(800, 2000))


def _rain(rng: np.random.Generator) -> Waves:
    """Hiss of high frequencies, and drops."""
    drops = (rng.random(SECONDS * RATE) < 0.002) * rng.uniform(1, 12, SECONDS * RATE)
    return _band(_white(rng) + drops, rng.uniform(1000, 2500), 7500)


def _wind(rng: np.random.Generator) -> Waves:
    """Gusts of low frequencies."""
    return _band(_white(rng), 30, rng.uniform(250, 600)) * _swell(rng, 1.5) ** 2


def _engine(rng: np.random.Generator) -> Waves:
    """Harmonics of a slowly changing speed over a rumble."""
    phase = 2 * np.pi * np.cumsum(rng.uniform(25, 60) * (0.8 + 0.4 * _swell(rng, 0.5))) / RATE
    tones = [np.sin(h * phase + rng.uniform(0, 6)) * rng.uniform(0.3, 1) / h**0.5 for h in range(1, 25)]
    return np.sum(tones, 0) + 2 * _band(_white(rng), 40, 400)


def _rotor(rng: np.random.Generator) -> Waves:
    """Broad noise that beats many times a second."""
    time = np.arange(SECONDS * RATE) / RATE
    beat = np.abs(np.sin(np.pi * rng.uniform(9, 18) * time)) ** 3
    return _band(_white(rng), 60, rng.uniform(1200, 2500)) * (0.15 + beat)


NOISES: dict[str, tuple[str, Callable[[np.random.Generator], Waves]]] = {
    "clock": ("indoor", _clock),
    "hum": ("indoor", _hum),
    "rain": ("outdoor", _rain),
    "wind": ("outdoor", _wind),
    "engine": ("transportation", _engine),
    "rotor": ("transportation", _rotor),
}
