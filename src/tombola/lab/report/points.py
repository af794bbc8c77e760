"""Points of a figure with their names beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = dict[str, tuple[float, float]]  # where each name has its point
# Offsets of a name from its point, in points, and the side of the name that is there.
PLACES = [((7 * s, y), "left" if s > 0 else "right") for y in (0, 9, -9, 18, -18, 27, -27) for s in (1, -1)]


def label_points(axes: Axes, points: Points, colours: Mapping[str, str]) -> None:
    """A name at each point, where it covers neither a point nor another name, if there is such a place.

    Args:
        axes: drawn once (``draw_without_rendering``), since only then it is known what has room.
        points: all that are drawn.
        colours: of names, which are the first to choose their places; others are grey.
    """
    from matplotlib.transforms import Bbox

    dots = axes.transData.transform(list(points.values()))
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in dots]
    for name in sorted(points, key=lambda name: (name not in colours, points[name])):
        for place, side in PLACES:
            text = axes.annotate(
                name,
                points[name],
                place,
                textcoords="offset points",
                fontsize="small",
                color=colours.get(name, "grey"),
                ha=side,
                va="center",
            )
            box = text.get_window_extent()
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not box.count_overlaps(taken):
                break
            if (place, side) != PLACES[-1]:
                text.remove()
        taken.append(box)
