"""Pictures of finished runs: outputs of tickets, figures, sounds; who answers what under contexts.

Shape letters: S samples of a split, K domains.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import RunError
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.lab import audio
from tombola.lab.experiments.experiment import Finished
from tombola.methods.context import CONTEXT_WIDTH, conditioned
from tombola.methods.pipeline import predict
from tombola.methods.table import METHODS
from tombola.runs.log import full_settings, read_config, read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


DEEPEST = -70  # dB below the loudest bin of a figure: black


@torch.no_grad()
def outputs(run: Finished, method: str, sparsity: float) -> Tensor:
    """Outputs for the test samples ``[S, ...]``, each by the ticket of its subset or by the one network."""
    network, part = run.experiment.backbone(torch.Generator()), run.experiment.partition(run.data)
    data, members_SK = run.data, part.members["test"]
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


def legend_below(figure: Figure, panel: Axes, **options: Any) -> None:
    """The legend of one panel, below all of them."""
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", **options)


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
    return (10 * power.clamp(min=1e-10).log10()).numpy()


def show_spectrogram(panel: Axes, loudness: NDArray[np.float32], seconds: float, top: float) -> AxesImage:
    """A spectrogram ``[frames, bins]`` over seconds and kHz; what is `DEEPEST` below ``top`` is black."""
    place: Any = {"origin": "lower", "aspect": "auto", "extent": (0, seconds, 0, audio.RATE / 2000)}
    return panel.imshow(loudness.T, **place, cmap="magma", vmin=top + DEEPEST, vmax=top)


def write_sounds(waves: Mapping[str, Tensor], out: Path, prefix: str = "") -> list[Path]:
    """A WAV file of each waveform ``[T]``, all on one scale, so that loudness can be compared."""
    loudest = max(float(wave.abs().max()) for wave in waves.values())
    scaled = {name: (wave * 0.9 / loudest).numpy() for name, wave in waves.items()}
    return [audio.write(out / f"{prefix}{name}.wav", wave) for name, wave in scaled.items()]


# -- classification under contexts -------------------------------------------------------------------------

# Methods that are drawn: their names in a legend, and the colours of their dots.
SHOWN = {
    "rtl": ("RTL, a ticket each", "#1b7837"),
    "shuffled_partition": ("RTL, masks from shuffled subsets", "#7fbf7b"),
    "same_mask": ("one mask for all tickets", "#e08214"),
    "imp": ("one mask (IMP)", "#9e9ac8"),
    "imp_context": ("one mask, told which", "#54278f"),
    "union_size_imp": ("one mask of RTL's union size", "#bdbdbd"),
    "dense": ("dense", "#525252"),
}
ANSWERING = {"rtl": "RTL", "imp": "IMP", "imp_context": "IMP, told"}
RIGHT, WRONG = "#1a7f37", "#c62828"

Accuracies = dict[tuple[str, float], dict[str, list[float]]]  # (method, sparsity) to domain to seeds


@dataclass(frozen=True)
class DomainPictures:
    """The pictures of an experiment: call it with finished runs of one preset and a folder."""

    name: str  # what its files begin with
    classes: Callable[[Data], Sequence[str]]  # the names of the classes
    title: Callable[[Data], str]  # what the pictures are headed with

    def __call__(self, runs: Sequence[Finished], out: Path) -> list[Path]:
        """One sheet of answers, from the first seed, and one chart of accuracies, over all seeds."""
        _check_alike(runs)
        found = accuracies(runs)
        if not any(method in SHOWN for method, _ in found):
            raise RunError(f"nothing to draw: none of these runs holds {', '.join(SHOWN)}")
        run = min(runs, key=lambda run: run.seed)
        config = read_config(run.path)
        tuned = " (judged on validation)" if config.get("tune") else ""
        title = f"{self.title(run.data)}, preset {config.get('preset')}{tuned}"
        files = [chart(found, title, out / f"{self.name}-accuracy.png")]
        sparsities = sorted({s for method in ANSWERING for s in run.sparsities(method)})
        if sparsities:
            file = out / f"{self.name}-answers.jpg"
            files.insert(0, self.sheet(run, sparsities[len(sparsities) // 2], title, file))
        return files

    def sheet(self, run: Finished, sparsity: float, title: str, file: Path) -> Path:
        """A row per domain, a random test image of each class in it, and what each method answers."""
        part, classes, test = run.experiment.partition(run.data), self.classes(run.data), run.data.test
        order = torch.randperm(len(test), generator=generator(0, "pictures"))
        methods = [method for method in ANSWERING if sparsity in run.sparsities(method)]
        answers = {method: outputs(run, method, sparsity).argmax(1) for method in methods}
        words = f"answers at {sparsity:.0%} sparsity, seed {run.seed}, a random image of each class"
        height = (1.15 + 0.19 * len(answers)) * len(part) + 0.7
        figure = new_figure(1.25 * len(classes) + 0.5, height, f"{title}: {words}")
        panels = figure.subplots(len(part), len(classes), squeeze=False)
        for k, name in enumerate(part.names):
            inside = order[part.members["test"][order, k]]
            panels[k, 0].set_ylabel(name.replace("_", " "), fontsize=10)
            for c, panel in enumerate(panels[k]):
                panel.set_title(classes[c] if k == 0 else "", fontsize=10)
                of_class = inside[test.y[inside] == c][:1]
                given = {m: int(answers[m][i]) for m in answers for i in of_class}
                _picture(panel, test.x[of_class], given, c, classes)
        return save(figure, file, bbox_inches="tight")


def _picture(panel: Any, x: Tensor, given: dict[str, int], truth: int, classes: Sequence[str]) -> None:
    """An image, if there is one in ``x``, and a line per method: right or wrong, and its answer."""
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    for image in x:
        panel.imshow(pixels(image), interpolation="nearest")
    for line, (method, answer) in enumerate(given.items()):
        mark, colour = ("✓", RIGHT) if answer == truth else ("✗", WRONG)
        words = f"{mark} {ANSWERING[method]}: {classes[answer]}"
        style = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
        below = {"xycoords": "axes fraction", "textcoords": "offset points"}
        panel.annotate(words, (0.5, 0), (0, -8 - 10 * line), **below, **style)


def _check_alike(runs: Sequence[Finished]) -> None:
    """A mean is over seeds: runs of one picture differ in nothing else."""
    configs = [read_config(run.path) for run in runs]
    first, *others = ({**config, "settings": full_settings(config)} for config in configs)
    for run, other in zip(runs[1:], others, strict=True):
        for key in ("preset", "settings", "augment", "tune", "data"):
            if other.get(key) != first.get(key):
                raise RunError(f"{runs[0].path} and {run.path} have different {key}: draw one kind at a time")


def pixels(x: Tensor) -> np.ndarray:
    """An image ``[C, H, W]``, uint8 or float from 0 to 1, as RGB uint8 ``[H, W, 3]``.

    >>> pixels(torch.ones(1, 4, 6)).shape
    (4, 6, 3)
    """
    bytes_CHW = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
    return bytes_CHW.expand(3, -1, -1).permute(1, 2, 0).numpy()


def accuracies(runs: Sequence[Finished]) -> Accuracies:
    """Accuracy per domain of every outcome, from the records of the runs, one value per seed."""
    found: Accuracies = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for row in read_records(run.path):
            if row.get("metric") == "accuracy" and "ticket" in row:
                found[row["method"], row["sparsity"]][row["ticket"]].append(row["value"])
    return found


def chart(found: Accuracies, title: str, file: Path) -> Path:
    """Dots per domain and method, a panel per sparsity; dense is in every panel."""
    sparsities = sorted({s for method, s in found if method in SHOWN and method != "dense"}) or [0.0]
    domains = list(next(v for (method, _), v in found.items() if method in SHOWN))
    seeds = [len(values) for by_domain in found.values() for values in by_domain.values()]
    counted = f"{' to '.join(map(str, sorted({min(seeds), max(seeds)})))} seed{'s' * (max(seeds) > 1)}"
    width, height = 1.9 * (len(domains) + 1) + 0.5, 2.1 * len(sparsities) + 0.9
    figure = new_figure(width, height, f"{title}: accuracy, mean (number) and {counted} (small dots)")
    panels = figure.subplots(len(sparsities), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for panel, sparsity in zip(panels, sparsities, strict=True):
        present = {m: d for m in SHOWN if (d := found.get((m, 0.0 if m == "dense" else sparsity)))}
        for i, (method, by_domain) in enumerate(present.items()):
            values = [by_domain[domain] for domain in domains]
            values.append(np.mean(values, 0).tolist())
            place = np.arange(len(values)) + 0.8 * ((i + 0.5) / len(present) - 0.5)
            _dots(panel, place, values, *SHOWN[method])
        panel.set_xlim(-0.5, len(domains) + 0.5)
        for between in np.arange(len(domains)) + 0.5:
            panel.axvline(between, color="0.85", linewidth=0.8)
        panel.set_ylabel(f"accuracy, {sparsity:.0%} sparse", fontsize=9)
        panel.set_xticks(range(len(domains) + 1), [d.replace("_", " ") for d in domains] + ["mean"])
        panel.tick_params(axis="x", length=0)
        panel.margins(y=0.12)
        panel.spines[["top", "right"]].set_visible(False)
    legend_below(figure, panels[0], ncols=3, fontsize=8, frameon=False)
    return save(figure, file)


def _dots(panel: Any, where: np.ndarray, values: Sequence[Sequence[float]], label: str, colour: str) -> None:
    """The means of one method with their numbers, and a small dot per seed."""
    means = [float(np.mean(seeds)) for seeds in values]
    panel.scatter(where, means, 30, color=colour, label=label, zorder=3)
    for x, mean, seeds in zip(where, means, values, strict=True):
        panel.vlines(x, min(seeds), max(seeds), color=colour, linewidth=1)
        panel.scatter([x] * len(seeds), seeds, 5, color=colour)
        number, top = f"{mean:.2f}", max(seeds)
        panel.annotate(number, (x, top), (0, 4), textcoords="offset points", ha="center", fontsize=6.5)
