"""What pictures of finished runs share: the outputs of their tickets, figures, spectrograms, sounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tombola.data.partition import Partition
from tombola.lab import audio
from tombola.lab.experiments.experiment import Finished
from tombola.methods.context import CONTEXT_WIDTH, conditioned
from tombola.methods.pipeline import predict
from tombola.methods.table import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Backbone = Callable[[torch.Generator], nn.Module]
DEEPEST = -70  # dB below the loudest bin of a figure: black


@torch.no_grad()
def outputs(run: Finished, method: str, sparsity: float, part: Partition, backbone: Backbone) -> Tensor:
    """Outputs for the test samples ``[S, ...]``, each by the ticket of its subset or by the one network."""
    network, data, members_SK = backbone(torch.Generator()), run.data, part.members["test"]
    if METHODS[method].conditioned:
        network = conditioned(network, len(part), CONTEXT_WIDTH, torch.Generator())
        data = replace(data, contexts={"test": members_SK.int().argmax(1)})
    tickets = run.tickets(method, sparsity, network)
    if len(tickets.names) == 1:
        return predict(tickets.bake(tickets.names[0]), data, "test")
    index = [members_SK[:, k].nonzero()[:, 0] for k in range(len(part))]
    made = [predict(tickets.bake(t), data, "test", i) for t, i in zip(part.names, index, strict=True)]
    whole = made[0].new_zeros(len(data.test), *made[0].shape[1:])
    return whole.index_copy(0, torch.cat(index), torch.cat(made))


def new_figure(width: float, height: float, title: str = "", fontsize: int = 10) -> Figure:
    """A figure of so many inches."""
    from matplotlib.figure import Figure  # only here: it takes a second to import

    figure = Figure((width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=fontsize)
    return figure


def save(figure: Figure, file: Path, **options: Any) -> Path:
    """Write a figure at 110 dots an inch, as the suffix of the file says."""
    if file.suffix == ".jpg":
        options["pil_kwargs"] = {"quality": 85}
    figure.savefig(file, dpi=110, **options)
    return file


def power(wave_T: Tensor) -> Tensor:
    """Squared magnitudes of the spectrogram ``[frames, bins]``."""
    return audio.spectrogram(wave_T[None])[0].square().sum(0)


def decibels(power: Tensor) -> NDArray[np.float32]:
    """Loudness of the same shape."""
    loudness: NDArray[np.float32] = (10 * power.clamp(min=1e-10).log10()).numpy()
    return loudness


def show_spectrogram(panel: Axes, loudness: NDArray[np.float32], seconds: float, top: float) -> AxesImage:
    """A spectrogram ``[frames, bins]`` over seconds and kHz; what is `DEEPEST` below ``top`` is black."""
    return panel.imshow(
        loudness.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, audio.RATE / 2000),
        cmap="magma",
        vmin=top + DEEPEST,
        vmax=top,
    )


def write_sounds(waves: Mapping[str, Tensor], out: Path, prefix: str = "") -> list[Path]:
    """A WAV file of each waveform ``[T]``, all on one scale, so that loudness can be compared."""
    loudest = max(float(wave.abs().max()) for wave in waves.values())
    scaled = {name: (wave * 0.9 / loudest).numpy() for name, wave in waves.items()}
    return [audio.write(out / f"{prefix}{name}.wav", wave) for name, wave in scaled.items()]
