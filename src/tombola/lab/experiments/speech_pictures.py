"""Spectrograms of one mixture per scene, and the sounds to them (Figure 12 of arXiv 2601.22141)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import RunError
from tombola.lab import audio
from tombola.lab.experiments.experiment import Finished
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.objectives.enhancement import clean
from tombola.runs.log import read_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

METHODS = {"rtl": "RTL, ticket of the scene", "imp": "IMP, one mask for all"}
DEEPEST = -70  # dB below the loudest bin of a figure: black


def draw(runs: Sequence[Finished], out: Path) -> list[Path]:
    """One figure per scene, and WAV files of its panels, from the first seed.

    The mixture is the first one of the scene in the test split at 0 dB (or the ratio next to it), not a
    chosen one; the sparsity is the middle one of those that the run has for both methods.

    Raises:
        RunError: no run has both RTL and IMP.
    """
    run = min(runs, key=lambda r: r.seed)
    sparsity = _sparsity(run)
    source = "synthetic voices and noise" if read_config(run.path)["source"] is None else "recorded speech"
    scenes, snrs = (run.data.test.column(name) for name in ("scene", "snr"))
    files = []
    for scene in np.unique(scenes).tolist():
        numbers = np.flatnonzero(scenes == scene)
        number = int(numbers[np.abs(snrs[numbers]).argmin()])
        waves = _waves(run, sparsity, scene, number)
        title = (
            f"{scene}, {source}, mixed at {snrs[number]:g} dB, {sparsity:.0%} of the weights removed, "
            f"seed {run.seed}"
        )
        files += [_figure(waves, title, out / f"{scene}.png"), *_sounds(waves, out, scene)]
    return files


def _sparsity(run: Finished) -> float:
    """The middle one of the sparsities at which the run has all that is drawn."""
    files = {m: (run.path / "tickets").glob(f"{m}-*.tickets") for m in METHODS}
    found = {m: {float(f.stem.removeprefix(f"{m}-")) for f in each} for m, each in files.items()}
    both = sorted(set.intersection(*found.values()))
    if not both:
        raise RunError(f"{run.path} has no finished {' and '.join(METHODS)} at one sparsity: run both first")
    return both[len(both) // 2]


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
    from matplotlib.figure import Figure

    titles = {"noisy": "noisy", "clean": "clean", **METHODS}
    decibels = {name: _decibels(wave) for name, wave in waves.items()}
    top = max(float(d.max()) for d in decibels.values())
    seconds = len(waves["clean"]) / audio.RATE
    figure = Figure((11, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for panel, (name, picture) in zip(panels.flat, decibels.items(), strict=True):
        image = show(panel, picture, seconds, top)
        quality = f", SI-SNR {_si_snr(waves[name], waves['clean']):.1f} dB" if name != "clean" else ""
        panel.set_title(f"{titles[name]}{quality}", fontsize=10)
    for panel in panels[:, 0]:
        panel.set_ylabel("frequency, kHz")
    for panel in panels[-1]:
        panel.set_xlabel("time, s")
    figure.colorbar(image, ax=panels, label="level, dB", shrink=0.9)
    figure.savefig(file, dpi=110)
    return file


def show(panel: Axes, decibels: NDArray[np.float32], seconds: float, top: float) -> AxesImage:
    """A spectrogram ``[frames, bins]`` over seconds and kHz; what is `DEEPEST` below ``top`` is black."""
    return panel.imshow(
        decibels.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, audio.RATE / 2000),
        cmap="magma",
        vmin=top + DEEPEST,
        vmax=top,
    )


def _decibels(wave: Tensor) -> NDArray[np.float32]:
    """Loudness ``[frames, bins]``."""
    power = audio.spectrogram(wave[None])[0].square().sum(0)
    loudness: NDArray[np.float32] = (10 * power.clamp(min=1e-10).log10()).numpy()
    return loudness


def _si_snr(estimate: Tensor, speech: Tensor) -> float:
    return float(audio.si_snr(estimate.double(), speech.double()))


def _sounds(waves: dict[str, Tensor], out: Path, scene: str) -> list[Path]:
    """All on one scale, so that loudness can be compared."""
    loudest = max(float(wave.abs().max()) for wave in waves.values())
    return [
        audio.write(out / f"{scene}-{name}.wav", (wave * 0.9 / loudest).numpy())
        for name, wave in waves.items()
    ]
