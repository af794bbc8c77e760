"""Pictures as networks, one ticket per region: experiment 3 of RTL (arXiv 2601.22141, Table 2)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # its parts are imported when first used
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import RunError
from tombola.data.partition import Partition, by_column
from tombola.lab.experiments.experiment import (
    Experiment,
    Finished,
    Preset,
    constant_settings,
    figures,
    preset_settings,
)
from tombola.lab.experiments.inr_data import as_image, load
from tombola.lab.experiments.pictures import legend_below, new_figure, outputs, save
from tombola.lab.models.coordinate_mlp import CoordinateMLP
from tombola.objectives.reconstruction import Reconstruction, psnr, squared
from tombola.runs.log import read_records

WEIGHTS = ("*.weight",)  # the output layer too: the paper's 53,888
# With 200 steps the single mask is ahead of the tickets, over all pixels.
QUICK = preset_settings(1e-2, 1e-2, 256, schedule="one_shot", T=100, steps=600, include=WEIGHTS)
# Sines bear smaller steps, and masks from a search at 0.001 are close to random ones (kappa 0.08).
QUICK_SIREN = replace(QUICK, search=replace(QUICK.search, lr=3e-4), train=replace(QUICK.train, lr=1e-3))
PAPER = constant_settings(1e-2, 1024, schedule="fixed_count:4096", T=10_000, steps=10_000, include=WEIGHTS)


# -- pictures -----------------------------------------------------------------------------------------------

SHOWN = {"rtl": "RTL", "imp": "one mask", "imp_context": "one mask, told the region"}
WIDTH = 2.3  # inches of a panel


def draw(runs: Sequence[Finished], out: Path) -> list[Path]:
    """A sheet per picture from its first seed, and one of mask similarity over all runs."""
    first = {run.item: run for run in sorted(runs, key=lambda run: run.seed, reverse=True)}
    files = [sheet(first[item], out) for item in dict.fromkeys(run.item for run in runs)]
    found = [file for file in files if file is not None] + similarity(runs, out)
    if not found:
        raise RunError(f"nothing to draw: none of these runs holds {', '.join(SHOWN)}")
    return found


def sheet(run: Finished, out: Path) -> Path | None:
    """Picture, label map, and what each method makes of it at each sparsity, with PSNR."""
    sparsities = {method: run.sparsities(method) for method in SHOWN}
    methods = [method for method, found in sparsities.items() if found]
    if not methods:
        return None
    every = sorted({s for found in sparsities.values() for s in found})
    split, part = run.data.test, run.experiment.partition(run.data)
    photograph = as_image(split.x, split.y)
    columns = 2 if len(every) == 1 else 1  # of what stands on the left
    width = WIDTH * (len(methods) + columns)
    height = WIDTH * photograph.shape[0] / photograph.shape[1] + 0.3
    title = f"{run.item}: {len(part)} regions, seed {run.seed}"
    figure = new_figure(width, max(len(every), 2 / columns) * height + 0.75, title, fontsize=11)
    parts: Any = figure.subfigures(1, 2, width_ratios=[columns, len(methods)])
    _given(parts[0], columns, photograph, part, split.x)
    panels = parts[1].subplots(len(every), len(methods), squeeze=False)
    for line, sparsity in zip(panels, every, strict=True):
        for panel, method in zip(line, methods, strict=True):
            panel.axis("off")
            if sparsity in sparsities[method]:
                made = outputs(run, method, sparsity).clamp(0, 1)
                panel.imshow(as_image(split.x, made), interpolation="nearest")
                quality = psnr(squared(made, split.y))
                panel.set_title(f"{SHOWN[method]}, {sparsity:.0%}\n{quality:.2f} dB", fontsize=8)
    return save(figure, out / f"{run.item}.jpg")


def _given(figure: Any, columns: int, photograph: NDArray[Any], part: Partition, x: Tensor) -> None:
    """The target, and its label map with a legend."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    target, labels = figure.subplots(3 - columns, columns)
    target.imshow(photograph, interpolation="nearest")
    target.set_title("target", fontsize=8)
    colours = np.asarray(colormaps["tab20"](np.arange(len(part)) % 20))[:, :3]
    labels.imshow(as_image(x, colours[part.members["test"].int().argmax(1).numpy()]), interpolation="nearest")
    labels.set_title("regions, one ticket each", fontsize=8)
    for panel in (target, labels):
        panel.axis("off")
    patches = [Patch(color=colour) for colour in colours]
    style = {"ncols": 2 * columns, "fontsize": 6, "frameon": False, "handlelength": 1, "columnspacing": 1}
    figure.legend(patches, part.names, loc="outside lower center", **style)


def similarity(runs: Sequence[Finished], out: Path) -> list[Path]:
    """PSNR of each region against the mean Jaccard similarity of its mask to the other regions' masks.

    Returns a picture with Spearman's coefficient over all regions, and the points as JSON.
    """
    points = [p for run in runs for s in run.sparsities("rtl") for p in _points(run, s)]
    if not points:
        return []
    sparsities, items = sorted({p["sparsity"] for p in points}), dict.fromkeys(p["item"] for p in points)
    figure = new_figure(3.2 * len(sparsities) + 0.4, 3.3)
    panels = figure.subplots(1, len(sparsities), squeeze=False)[0]
    for panel, sparsity in zip(panels, sparsities, strict=True):
        for number, item in enumerate(items):
            own = [p for p in points if (p["sparsity"], p["item"]) == (sparsity, item)]
            place = [p["jaccard"] for p in own], [p["psnr"] for p in own]
            panel.scatter(*place, s=14, color=f"C{number % 10}", marker="os^Dv"[number // 10 % 5], label=item)
        every, within = spearman([p for p in points if p["sparsity"] == sparsity])
        panel.set_title(f"{sparsity:.0%}: Spearman {every:+.2f}\nwithin pictures {within:+.2f}", fontsize=9)
        panel.set_xlabel("mean Jaccard similarity to the other masks", fontsize=8)
        panel.tick_params(labelsize=7)
    panels[0].set_ylabel("PSNR of the region, dB", fontsize=8)
    legend_below(figure, panels[0], ncols=min(5, len(items)), fontsize=6)
    numbers = out / "similarity.json"
    numbers.write_text("[\n" + ",\n".join(json.dumps(p) for p in points) + "\n]\n")
    return [save(figure, out / "similarity.png"), numbers]


def spearman(points: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Spearman's coefficient of similarity and PSNR over all regions, and its mean within pictures.

    NaN where there are fewer than three regions, or all values are equal.
    """
    own = defaultdict(list)
    for point in points:
        own[point["item"], point["seed"]].append(point)
    within = np.array([_spearman(group) for group in own.values()])
    known = within[np.isfinite(within)]
    return _spearman(points), float(known.mean()) if len(known) else float("nan")


def _spearman(points: Sequence[dict[str, Any]]) -> float:
    pairs = np.array([(p["jaccard"], p["psnr"]) for p in points])
    if len(pairs) < 3 or (np.ptp(pairs, 0) == 0).any():
        return float("nan")
    return float(scipy.stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def _points(run: Finished, sparsity: float) -> list[dict[str, Any]]:
    """Similarity and PSNR of each region of a run, the latter as it was recorded."""
    masks = run.tickets("rtl", sparsity, run.experiment.backbone(torch.Generator())).masks
    others = ~torch.eye(len(masks), dtype=torch.bool)
    jaccard = (masks.jaccard() * others).sum(1) / others.sum(1)
    wanted = {"metric": "psnr", "method": "rtl", "sparsity": sparsity}.items()
    rows = (row for row in read_records(run.path) if wanted <= row.items() and "ticket" in row)
    recorded = {row["ticket"]: row["value"] for row in rows}
    metadata = {"item": run.item, "seed": run.seed, "sparsity": sparsity}
    return [
        {**metadata, "region": name, "jaccard": float(jaccard[k]), "psnr": recorded[name]}
        for k, name in enumerate(masks.names)
        if name in recorded
    ]


INR = Experiment(
    name="inr",
    summary="pictures as networks of coordinates, one ticket per region, a network per picture",
    data="photographs with label maps: --data FOLDER (images/, labels/); two inside scikit-learn by default",
    load=load,
    backbone=partial(CoordinateMLP, "relu", 128, 4, 3),
    partition=partial(by_column, column="region"),
    objective=Reconstruction(),
    presets={
        "quick": Preset(
            QUICK,
            "three rounds of 100 steps a ticket, three trainings of 600: a minute per picture, method, seed",
        ),
        "paper": Preset(
            PAPER,
            "the paper's hyperparameters: 4,096 weights a round of 10,000 steps at 0.01; hours per picture",
        ),
    },
    paper=figures(
        "psnr union",
        rtl=[(18.86, 48.0e3), (17.25, 36.5e3), (14.87, 22.0e3)],
        # The paper's "IMP (single model)" is told the class by an embedding.
        imp_context=[(15.94, 40.5e3), (14.72, 27.0e3), (12.69, 13.5e3)],
    ),
    stand_in="two photographs inside scikit-learn",
    draw=draw,
)

INR_SIREN = replace(
    INR,
    name="inr_siren",
    summary="inr with sines instead of ReLU (SIREN)",
    backbone=partial(CoordinateMLP, "siren", 128, 4, 3),
    presets={"quick": Preset(QUICK_SIREN, "as quick of inr, at learning rates for sines")},
    paper={},
)
