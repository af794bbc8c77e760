"""Speech enhancement, one ticket per acoustic scene: experiment 4 of RTL (arXiv 2601.22141, Appendix D)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import RunError
from tombola.data.dataset import Data
from tombola.data.partition import by_column
from tombola.lab import audio
from tombola.lab.experiments import pictures
from tombola.lab.experiments.experiment import (
    LATE_ONE_SHOT,
    Experiment,
    Finished,
    Preset,
    constant_settings,
    figures,
    preset_settings,
)
from tombola.lab.experiments.speech_data import mixtures, read_clips
from tombola.lab.experiments.speech_synthetic import synthetic_clips
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.objectives import Enhancement
from tombola.objectives.enhancement import clean
from tombola.runs.log import read_config

# All convolution weights, the last one too, as the paper counts them; those of norms end in ".1.weight".
SCOPE = ("down.*.0.weight", "up.*.0.weight", "mask.weight")


def load(source: str | None, augment: bool) -> Data:
    """Mixtures of the clips in a folder, or of synthetic ones; ``augment`` draws noise afresh."""
    return mixtures(synthetic_clips() if source is None else read_clips(source), augment)


ONE_SHOT = {**LATE_ONE_SHOT, "T": 20}
QUICK = preset_settings(3e-3, 1e-2, 4, **ONE_SHOT, rewind=400, steps=150, statistics=20, include=SCOPE)
PAPER = constant_settings(
    1e-4,
    16,
    schedule="fraction:0.13",  # ten rounds to 75%
    T=60,  # about one epoch of 970 crops
    steps=600,  # ten
    include=SCOPE,
)


# -- pictures and sounds ------------------------------------------------------------------------------------

METHODS = {"rtl": "RTL, ticket of the scene", "imp": "IMP, one mask for all"}


def draw(runs: Sequence[Finished], out: Path) -> list[Path]:
    """One figure per scene, and WAV files of its panels, from the first seed.

    The mixture is the first one of the scene in the test split at 0 dB (or the ratio next to it), not a
    chosen one; the sparsity is the middle one of those that the run has for both methods.
    """
    run = min(runs, key=lambda r: r.seed)
    both = sorted(set.intersection(*(set(run.sparsities(method)) for method in METHODS)))
    if not both:
        raise RunError(f"{run.path} has no finished {' and '.join(METHODS)} at one sparsity: run both first")
    sparsity = both[len(both) // 2]
    source = "synthetic voices and noise" if read_config(run.path)["source"] is None else "recorded speech"
    scenes, snrs = (run.data.test.column(name) for name in ("scene", "snr"))
    files = []
    for scene in np.unique(scenes).tolist():
        numbers = np.flatnonzero(scenes == scene)
        number = int(numbers[np.abs(snrs[numbers]).argmin()])
        waves = _waves(run, sparsity, scene, number)
        title = f"{scene}, {source}, mixed at {snrs[number]:g} dB, "
        title += f"{sparsity:.0%} of the weights removed, seed {run.seed}"
        files.append(_figure(waves, title, out / f"{scene}.png"))
        files += pictures.write_sounds(waves, out, f"{scene}-")
    return files


@torch.no_grad()
def _waves(run: Finished, sparsity: float, scene: str, number: int) -> dict[str, Tensor]:
    """The clean speech, the mixture, and what each method makes of it, by name of file, each ``[T]``."""
    index = torch.tensor([number])
    speech, x = clean(run.data.test.y[index]), run.data.inputs("test", index)
    waves = {"noisy": audio.waveform(x, speech.shape[-1]), "clean": speech}
    for method in METHODS:
        tickets = run.tickets(method, sparsity, SpeechUNet())
        enhanced = tickets(x, ticket=scene if scene in tickets.names else tickets.names[0])
        waves[method] = audio.waveform(enhanced, speech.shape[-1])
    return {name: wave[0] for name, wave in waves.items()}


def _figure(waves: dict[str, Tensor], title: str, file: Path) -> Path:
    """Four spectrograms on one scale of loudness."""
    titles = {"noisy": "noisy", "clean": "clean", **METHODS}
    loudness = {name: pictures.decibels(pictures.power(wave)) for name, wave in waves.items()}
    top = max(float(each.max()) for each in loudness.values())
    figure = pictures.new_figure(11, 5.6, title, fontsize=11)
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    speech = waves["clean"].double()
    for panel, (name, wave) in zip(panels.flat, waves.items(), strict=True):
        image = pictures.show_spectrogram(panel, loudness[name], len(wave) / audio.RATE, top)
        quality = f", SI-SNR {float(audio.si_snr(wave.double(), speech)):.1f} dB" if name != "clean" else ""
        panel.set_title(f"{titles[name]}{quality}", fontsize=10)
    for panel in panels[:, 0]:
        panel.set_ylabel("frequency, kHz")
    for panel in panels[-1]:
        panel.set_xlabel("time, s")
    figure.colorbar(image, ax=panels, label="level, dB", shrink=0.9)
    return pictures.save(figure, file)


SPEECH = Experiment(
    name="speech",
    summary="speech enhancement, one ticket per acoustic scene (K = 3), U-Net",
    data=(
        "synthetic voices in synthetic noise, no real speech; real: --data FOLDER with manifest.csv of "
        "speech and of noise by scene"
    ),
    load=load,
    backbone=partial(SpeechUNet, 2),  # 37,368 prunable weights
    partition=partial(by_column, column="scene"),
    objective=Enhancement(),
    presets={
        "quick": Preset(
            QUICK,
            "late rewinding, private norms, three rounds and three trainings on crops of one second",
            True,
        ),
        "paper": Preset(
            PAPER, "the paper's: learning rate 1e-4, ten rounds of an epoch, ten epochs of retraining", True
        ),
    },
    paper=figures(
        "si_snri union",
        rtl=[(7.248, 32.0e3), (7.178, 22.8e3), (6.992, 12.3e3)],
        imp=[(6.885, 28.0e3), (6.970, 18.6e3), (6.967, 9.3e3)],
        imp_per_subset=[(5.295, 84.1e3), (5.775, 56.1e3), (5.899, 28.0e3)],
    ),
    stand_in="synthetic voices and noise",
    draw=draw,
)
