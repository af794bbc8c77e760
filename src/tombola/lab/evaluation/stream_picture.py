"""A stream as a picture and as sounds: scene, ticket and confidence over time; before and after."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tombola._utils.io import write_bytes
from tombola.lab import audio
from tombola.lab.evaluation.streamed import Streamed
from tombola.lab.experiments.speech_pictures import show
from tombola.lab.experiments.speech_stream import STEP

COLOURS = 64  # of the file, so that it stays small
COLUMNS = 600  # of a spectrogram, so that a minute fits


def write(found: Streamed, out: Path, title: str) -> list[Path]:
    """``stream.png`` and four WAV files, all on one scale of loudness, into a folder that is made."""
    out.mkdir(parents=True, exist_ok=True)
    files = [_picture(found, out / "stream.png", title)]
    loudest = max(float(sound.abs().max()) for sound in found.sounds.values())
    for name, sound in found.sounds.items():
        files.append(audio.write(out / f"{name}.wav", (sound * 0.9 / loudest).numpy()))
    return files


def _picture(found: Streamed, file: Path, title: str) -> Path:
    from matplotlib.figure import Figure  # only here: it takes a second to import

    figure = Figure((10, 7), layout="constrained")
    figure.suptitle(title, fontsize=10)
    before, after, scenes, sure = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1.6, 1.4))
    pictures = [_decibels(found.sounds[name]) for name in ("noisy", "router")]
    top, seconds = max(float(p.max()) for p in pictures), len(found.recording.noisy_T) / audio.RATE
    for axes, picture, name in zip((before, after), pictures, ("noisy", "enhanced, router"), strict=True):
        show(axes, picture, seconds, top)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylabel("kHz")
    time = np.arange(len(found.who_I) + 1) * STEP / audio.RATE
    truth, who = found.recording.scene_I(), found.who_I
    scenes.stairs(truth.numpy(), time, baseline=None, color="#999999", linewidth=6, label="scene")
    scenes.stairs(who.numpy(), time, baseline=None, color="#0b5fa5", linewidth=1.8, label="ticket")
    scenes.set_yticks(range(len(found.recording.scenes)), found.recording.scenes, fontsize=8)
    scenes.set_ylim(-0.5, len(found.recording.scenes) - 0.5)
    scenes.legend(fontsize=7, loc="upper left")
    scenes.set_title(_words(found), fontsize=9, loc="left")
    sure.stairs(found.confidence_I.numpy(), time, baseline=None, color="#0b5fa5")
    sure.set(ylim=(0, 1.02), xlabel="time, s", ylabel="confidence")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90, format="png")
    small = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(small, "PNG", optimize=True)
    write_bytes(file, small.getvalue())
    return file


def _words(found: Streamed) -> str:
    waits = [
        f"change at {at:.0f} s: its ticket "
        + ("never came" if wait is None else f"first came {wait:.1f} s later")
        for at, wait in found.delays
    ]
    return "; ".join([f"right ticket {found.values['routing_accuracy']:.0%} of the time", *waits])


def _decibels(wave: Tensor) -> NDArray[np.float32]:
    """Loudness ``[COLUMNS, bins / 3]``, means over neighbours."""
    power = audio.spectrogram(wave[None])[0].square().sum(0)
    power = torch.nn.functional.adaptive_avg_pool2d(power[None], (COLUMNS, power.shape[1] // 3))[0]
    loudness: NDArray[np.float32] = (10 * power.clamp(min=1e-10).log10()).numpy()
    return loudness
