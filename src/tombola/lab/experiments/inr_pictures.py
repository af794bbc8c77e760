"""What the networks of a picture look like, and similarity of masks against quality (Figures 6 to 11)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from tombola._utils.errors import RunError
from tombola.data.partition import Partition, by_column
from tombola.lab.experiments.experiment import Finished
from tombola.lab.experiments.inr_data import as_image
from tombola.methods.context import CONTEXT_WIDTH, conditioned
from tombola.methods.table import METHODS
from tombola.objectives.reconstruction import psnr, squared
from tombola.runs.log import read_records

Backbone = Callable[[torch.Generator], nn.Module]
SHOWN = {"rtl": "RTL", "imp": "one mask", "imp_context": "one mask, told the region"}
WIDTH = 2.3  # inches of a panel


def draw(runs: Sequence[Finished], out: Path, backbone: Backbone) -> list[Path]:
    """A sheet per picture from its first seed, and one of mask similarity over all runs.

    Args:
        runs: finished runs; methods and sparsities that they lack are left out.
        out: an existing folder.
        backbone: the network of these runs.

    Raises:
        RunError: no run holds a method that could be drawn.
    """
    first = {run.item: run for run in sorted(runs, key=lambda run: run.seed, reverse=True)}
    files = [sheet(first[item], out, backbone) for item in dict.fromkeys(run.item for run in runs)]
    found = [file for file in files if file is not None] + similarity(runs, out, backbone)
    if not found:
        raise RunError(f"nothing to draw: none of these runs holds {', '.join(SHOWN)}")
    return found


def sheet(run: Finished, out: Path, backbone: Backbone) -> Path | None:
    """Picture, label map, and what each method makes of it at each sparsity, with PSNR."""
    from matplotlib.figure import Figure

    methods = [method for method in SHOWN if _sparsities(run, method)]
    sparsities = sorted({s for method in methods for s in _sparsities(run, method)})
    if not methods:
        return None
    split, part = run.data.test, by_column(run.data, "region")
    photograph = as_image(split.x, split.y)
    H, W = photograph.shape[:2]
    rows, height = len(sparsities), WIDTH * H / W + 0.3
    left_columns = 2 if rows == 1 else 1
    figure = Figure(
        (WIDTH * (len(methods) + left_columns), max(rows, 2 / left_columns) * height + 0.75),
        layout="constrained",
    )
    figure.suptitle(f"{run.item}: {len(part)} regions, seed {run.seed}", fontsize=11)
    parts: Any = figure.subfigures(1, 2, width_ratios=[left_columns, len(methods)])
    _given(parts[0], left_columns, photograph, part, split.x)
    panels = parts[1].subplots(rows, len(methods), squeeze=False)
    for line, sparsity in zip(panels, sparsities, strict=True):
        for panel, method in zip(line, methods, strict=True):
            panel.axis("off")
            if sparsity in _sparsities(run, method):
                outputs = rendered(run, method, sparsity, part, backbone).clamp(0, 1)
                panel.imshow(as_image(split.x, outputs), interpolation="nearest")
                quality = psnr(squared(outputs, split.y))
                panel.set_title(f"{SHOWN[method]}, {sparsity:.0%}\n{quality:.2f} dB", fontsize=8)
    file = out / f"{run.item}.jpg"
    figure.savefig(file, dpi=110, pil_kwargs={"quality": 85})
    return file


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
    figure.legend(
        [Patch(color=colour) for colour in colours],
        part.names,
        loc="outside lower center",
        ncols=2 * columns,
        fontsize=6,
        frameon=False,
        handlelength=1,
        columnspacing=1,
    )


@torch.no_grad()
def rendered(run: Finished, method: str, sparsity: float, part: Partition, backbone: Backbone) -> Tensor:
    """Outputs for every pixel ``[S, 3]``, each from the ticket of its own region; not clamped."""
    network, data = backbone(torch.Generator()), run.data
    numbers = part.members["test"].int().argmax(1)
    if METHODS[method].conditioned:
        network = conditioned(network, len(part), CONTEXT_WIDTH, torch.Generator())
        data = replace(data, contexts={"test": numbers})
    tickets = run.tickets(method, sparsity, network)
    x = data.inputs("test", torch.arange(len(data.test)))
    names = None if len(tickets.names) == 1 else [part.names[k] for k in numbers.tolist()]
    outputs: Tensor = tickets(x, names)
    return outputs


def similarity(runs: Sequence[Finished], out: Path, backbone: Backbone) -> list[Path]:
    """PSNR of each region against the mean Jaccard similarity of its mask to the other regions' masks.

    Returns a picture with Spearman's coefficient over all regions, and the points as JSON.
    """
    from matplotlib.figure import Figure

    points = [p for run in runs for s in _sparsities(run, "rtl") for p in _points(run, s, backbone)]
    if not points:
        return []
    sparsities, items = (
        sorted({p["sparsity"] for p in points}),
        list(dict.fromkeys(p["item"] for p in points)),
    )
    figure = Figure((3.2 * len(sparsities) + 0.4, 3.3), layout="constrained")
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
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(items)), fontsize=6)
    files = [out / "similarity.png", out / "similarity.json"]
    figure.savefig(files[0], dpi=110)
    files[1].write_text("[\n" + ",\n".join(json.dumps(p) for p in points) + "\n]\n")
    return files


def spearman(points: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Spearman's coefficient of similarity and PSNR over all regions, and its mean within pictures.

    NaN where there are fewer than three regions, or all values are equal.
    """
    own: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for point in points:
        own.setdefault((point["item"], point["seed"]), []).append(point)
    within = np.array([_spearman(group) for group in own.values()])
    known = within[np.isfinite(within)]
    return _spearman(points), float(known.mean()) if len(known) else float("nan")


def _spearman(points: Sequence[dict[str, Any]]) -> float:
    pairs = np.array([(p["jaccard"], p["psnr"]) for p in points])
    if len(pairs) < 3 or (np.ptp(pairs, 0) == 0).any():
        return float("nan")
    return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def _points(run: Finished, sparsity: float, backbone: Backbone) -> list[dict[str, Any]]:
    """Similarity and PSNR of each region of a run, the latter as it was recorded."""
    masks = run.tickets("rtl", sparsity, backbone(torch.Generator())).masks
    others = ~torch.eye(len(masks), dtype=torch.bool)
    jaccard = (masks.jaccard() * others).sum(1) / others.sum(1)
    recorded = {
        row["ticket"]: row["value"]
        for row in read_records(run.path)
        if (row.get("metric"), row.get("method"), row.get("sparsity")) == ("psnr", "rtl", sparsity)
        and "ticket" in row
    }
    metadata = {"item": run.item, "seed": run.seed, "sparsity": sparsity}
    return [
        {**metadata, "region": name, "jaccard": float(jaccard[k]), "psnr": recorded[name]}
        for k, name in enumerate(masks.names)
        if name in recorded
    ]


def _sparsities(run: Finished, method: str) -> list[float]:
    """Sparsities at which a run has finished tickets of a method."""
    suffix, found = ".tickets", (run.path / "tickets").glob(f"{method}-*.tickets")
    return sorted(float(file.name.removeprefix(f"{method}-").removesuffix(suffix)) for file in found)
