"""SVG by hand: elements, ticks, markers. Colours are classes, so a page decides them for light and dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any


def el(tag: str, body: str = "", **attributes: Any) -> str:
    """An element; ``_`` in names becomes ``-``, ``class_`` becomes ``class``, numbers get one decimal.

    >>> el("line", x1=0, y1=0.25, stroke_width=2)
    '<line x1="0" y1="0.2" stroke-width="2"/>'
    >>> el("text", escape("a < b"), class_="small")
    '<text class="small">a &lt; b</text>'
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(number(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{named}>{body}</{tag}>" if body else f"<{tag}{named}/>"


def number(value: Any) -> str:
    """A coordinate with at most one decimal; anything else as it is.

    >>> number(3.04), number(-0.04), number("red")
    ('3', '0', 'red')
    """
    if not isinstance(value, float):
        return str(value)
    short = f"{value:.1f}".removesuffix(".0")
    return "0" if short == "-0" else short


def text(x: float, y: float, words: str, anchor: str = "start", class_: str = "", **more: Any) -> str:
    """A line of text."""
    return el("text", escape(words) or " ", x=x, y=y, text_anchor=anchor, class_=class_ or None, **more)


def shortened(name: str, most: int = 26) -> str:
    """A name without its middle if it is too long: names of layers and tickets differ at their ends.

    >>> shortened("blocks.0.expand.primary.0.weight", 15)
    'blocks.….weight'
    """
    half = most // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two others, at most so many: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.68, 0.77)
    [0.68, 0.7, 0.72, 0.74, 0.76]
    >>> ticks(3.0, 3.0)
    [3.0]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most - 1 + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """From values to positions, linear."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of a value; the middle if all values are one."""
        if self.high == self.low:
            return (self.begin + self.end) / 2
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def span(values: list[float], margin: float = 0.06) -> tuple[float, float]:
    """Least and greatest of the finite values, and a margin; 0 to 1 if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    wide = (high - low) * margin or abs(high) * 0.05 or 0.5
    return low - wide, high + wide


# Shapes tell series apart without colour; each is drawn around (x, y) with radius r.
_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    "up": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    "down": [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
    "left": [(-1.2, 0), (0.9, 1.15), (0.9, -1.15)],
    "right": [(1.2, 0), (-0.9, 1.15), (-0.9, -1.15)],
}
_STROKES: dict[str, str] = {
    "cross": "M{a} {b}L{c} {d}M{a} {d}L{c} {b}",
    "plus": "M{x} {b}L{x} {d}M{a} {y}L{c} {y}",
    "bar": "M{x} {b}L{x} {d}",
}
SHAPES = ("circle", *_POLYGONS, *_STROKES)


def marker(shape: str, x: float, y: float, class_: str, title: str = "", r: float = 4.5) -> str:
    """A marker, with a title that pointers show."""
    body = el("title", escape(title)) if title else ""
    if shape in _POLYGONS:
        points = " ".join(f"{number(x + r * dx)},{number(y + r * dy)}" for dx, dy in _POLYGONS[shape])
        return el("polygon", body, points=points, class_=class_)
    if shape in _STROKES:
        places = {"x": x, "y": y, "a": x - r, "b": y - r, "c": x + r, "d": y + r}
        path = _STROKES[shape].format(**{name: number(place) for name, place in places.items()})
        return el("path", body, d=path, class_=class_)
    return el("circle", body, cx=x, cy=y, r=r, class_=class_)


def path(points: list[tuple[float, float]], class_: str) -> str:
    """A line through points; nothing for fewer than two."""
    if len(points) < 2:
        return ""
    places = " ".join(f"{number(float(x))},{number(float(y))}" for x, y in points)
    return el("polyline", points=places, class_=class_)
