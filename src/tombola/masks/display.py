"""Tickets in a notebook: a table and a figure, from plain values.

Shape letters: K tickets, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from tombola._utils.errors import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 20  # tickets in a table; a notebook is no place for hundreds of rows


def table(title: str, names: Sequence[str], kept: Sequence[int], size: int, likeness_KK: np.ndarray) -> str:
    """An HTML table of tickets: weights kept of ``size``, likeness to the others (``[K, K]``)."""
    K = len(names)
    others_K = (likeness_KK.sum(1) - likeness_KK.diagonal()) / max(K - 1, 1)
    rows = [
        f"<tr><td>{escape(name)}</td><td>{count:,}</td><td>{count / size:.1%}</td>"
        f"<td>{f'{like:.3f}' if K > 1 else ''}</td></tr>"
        for name, count, like in list(zip(names, kept, others_K, strict=True))[:SHOWN]
    ]
    if K > SHOWN:
        rows.append(f"<tr><td colspan='4'>and {K - SHOWN} more</td></tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("ticket", "kept", "density", "mean J with others"))
    return (
        f"<p>{escape(title)}</p><table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def figure(
    names: Sequence[str], layers: Sequence[str], density_KL: np.ndarray, likeness_KK: np.ndarray
) -> Figure:
    """Heat maps: density of tickets in layers ``[K, L]``, Jaccard similarity of pairs ``[K, K]``."""
    with needs("lab", "pictures of tickets"):
        from matplotlib.figure import Figure  # only here: it takes a second to import

    K, L = density_KL.shape
    height = min(2.2 + 0.28 * K, 12)
    made = Figure((min(4 + 0.25 * L, 14) + height, height + 1), layout="constrained")
    left, right = made.subplots(1, 2, width_ratios=(min(4 + 0.25 * L, 14), height))
    # Every ticket is like itself: without the diagonal the colours are left to the pairs.
    pairs_KK = np.where(np.eye(K, dtype=bool) & (K > 1), np.nan, likeness_KK)
    for axes, values, title, columns, range_ in (
        (left, density_KL, "density by layer", layers, {"vmin": 0, "vmax": 1}),
        (right, pairs_KK, "Jaccard similarity", names, {}),
    ):
        image = axes.imshow(values, aspect="auto", cmap="cividis", **range_)
        axes.set_title(title)
        _ticks(axes.set_xticks, columns, rotation=90)
        _ticks(axes.set_yticks, names)
        made.colorbar(image, ax=axes, shrink=0.8)
    return made


def _ticks(place: object, names: Sequence[str], **style: object) -> None:
    every = range(0, len(names), -(-len(names) // 40))
    place(list(every), [names[i] for i in every], fontsize=7, **style)  # type: ignore[operator]
