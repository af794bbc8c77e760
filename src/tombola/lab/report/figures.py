"""Charts of a page: curves, dots and bars as inline SVG that can be read, spoken and printed.

Colours are classes, so the style sheet of the page decides them for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tombola.lab.report.tables import Format, whole
from tombola.methods.table import METHODS

WIDTH = 460.0  # narrow, so that letters stay legible when a telephone scales the figure down
COLOURS = 6  # of the style sheet: k0 to k5


@dataclass(frozen=True)
class Figure:
    """A chart: what it is called, what it shows in words, its elements, its height, its legend."""

    title: str
    desc: str
    body: str
    height: float
    legend: tuple[tuple[str, str], ...] = ()  # elements of the sample, name
    width: float = WIDTH


@dataclass(frozen=True)
class Style:
    """Colour, shape and stroke of a series: three ways to tell it from the others."""

    number: int
    hollow: bool = False  # a control: dashed, outlined
    faint: bool = False  # one of very many
    dotted: bool = False  # figures of the paper

    @property
    def classes(self) -> str:
        """For the style sheet."""
        flags = {"hollow": self.hollow, "faint": self.faint, "dotted": self.dotted}
        return " ".join([f"k{self.number % COLOURS}", *(name for name, on in flags.items() if on)])

    @property
    def shape(self) -> str:
        """Of the marker."""
        return SHAPES[self.number % len(SHAPES)]

    def mark(self, x: float, y: float, title: str = "", r: float = 4.5) -> str:
        """A marker at a place, with a title that pointers show."""
        body, class_ = el("title", escape(title)) if title else "", f"mark {self.classes}"
        if self.shape in _POLYGONS:
            corners = (f"{number(x + r * dx)},{number(y + r * dy)}" for dx, dy in _POLYGONS[self.shape])
            return el("polygon", body, points=" ".join(corners), class_=class_)
        if self.shape in _STROKES:
            places = {"x": x, "y": y, "a": x - r, "b": y - r, "c": x + r, "d": y + r}
            drawn = _STROKES[self.shape].format(**{name: number(place) for name, place in places.items()})
            return el("path", body, d=drawn, class_=class_)
        return el("circle", body, cx=x, cy=y, r=r, class_=class_)

    def sample(self) -> str:
        """A piece of line with a marker, 30 wide and 14 high, for the legend."""
        return el("line", x1=1, y1=7, x2=29, y2=7, class_=f"line {self.classes}") + self.mark(15, 7)


def method_style(method: str) -> Style:
    """The same on every figure of every page."""
    return Style(list(METHODS).index(method), hollow=METHODS[method].control)


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{value:.0%}"


Point = tuple[float, float, float | None]  # x, y, half an interval


@dataclass(frozen=True)
class Series:
    """Named points in one style."""

    name: str
    style: Style
    points: Sequence[Point]
    names: Sequence[str] = ()  # of the points, shown where a pointer rests
    marked: bool = True


@dataclass(frozen=True)
class Axis:
    """What is measured along an edge, and how it is written."""

    label: str
    fmt: Format
    ticks: Sequence[float] | None = None
    bounds: tuple[float, float] | None = None


def xy(title: str, series: Sequence[Series], x: Axis, y: Axis, height: float = 290.0) -> Figure:
    """Lines with markers and intervals. Names that repeat have one entry in the legend."""
    points = [point for each in series for point in each.points]
    heights = [p[1] + sign * (p[2] or 0.0) for p in points for sign in (-1, 1)]
    across = Scale(*(x.bounds or span([p[0] for p in points])), 58.0, WIDTH - 12)
    up = Scale(*(y.bounds or span(heights)), height - 46, 12.0)
    parts = [_axes(across, up, x, y, height)]
    parts += [_drawn(each, across, up, x.fmt, y.fmt) for each in series]
    shown = [each for each in series if each.points and not each.style.faint]
    legend = {each.name: each.style.sample() for each in shown}
    spoken = list({each.name: each for each in reversed(shown)}.values())[::-1] or list(series)
    desc = f"{y.label} over {x.label}. " + " ".join(_spoken(each, x.fmt, y.fmt) for each in spoken[:12])
    named = tuple((sample, name) for name, sample in legend.items())
    return Figure(title, desc, "".join(parts), height, named)


def _spoken(series: Series, x: Format, y: Format) -> str:
    shown = [p for p in series.points if math.isfinite(p[1])]
    shown = shown if len(shown) <= 8 else [shown[0], shown[len(shown) // 2], shown[-1]]
    return f"{series.name}: " + ", ".join(f"{y(b)} at {x(a)}" for a, b, _ in shown) + "."


def _axes(across: Scale, up: Scale, x: Axis, y: Axis, height: float) -> str:
    parts = []
    for value in ticks(up.low, up.high):
        at = up(value)
        parts.append(el("line", x1=across.begin, x2=across.end, y1=at, y2=at, class_="grid"))
        parts.append(text(across.begin - 6, at + 4, y.fmt(value), "end"))
    marks = x.ticks if x.ticks is not None else ticks(across.low, across.high)
    parts += _scale(across, marks, up.begin, x.fmt)
    parts.append(el("line", x1=across.begin, x2=across.end, y1=up.begin, y2=up.begin, class_="edge"))
    middle = (across.begin + across.end) / 2
    parts.append(text(middle, height - 8, x.label, "middle", "label"))
    turned = f"rotate(-90 13 {(up.begin + up.end) / 2:.1f})"
    parts.append(text(13, (up.begin + up.end) / 2, y.label, "middle", "label", transform=turned))
    return "".join(parts)


def _scale(
    across: Scale, values: Sequence[float], y: float, fmt: Format, below: float = 18, class_: str = ""
) -> list[str]:
    """Marks along the lower edge, and what they stand for."""
    parts = []
    for value in values:
        at = across(value)
        parts.append(el("line", x1=at, x2=at, y1=y, y2=y + 4, class_="edge"))
        parts.append(text(at, y + below, fmt(value), "middle", class_))
    return parts


def _drawn(series: Series, across: Scale, up: Scale, x: Format, y: Format) -> str:
    classes = series.style.classes
    shown = [(i, p) for i, p in enumerate(series.points) if math.isfinite(p[0]) and math.isfinite(p[1])]
    places = " ".join(f"{number(float(across(p[0])))},{number(float(up(p[1])))}" for _, p in shown)
    parts = [el("polyline", points=places, class_=f"line {classes}")] if len(shown) > 1 else []
    for i, (a, b, half) in shown if series.marked else ():
        at = across(a)
        if half:
            low, high = up(b - half), up(b + half)
            parts.append(el("line", x1=at, x2=at, y1=low, y2=high, class_=f"whisker {classes}"))
        name = series.names[i] if series.names else f"{series.name}, {x(a)}: {y(b)}"
        parts.append(series.style.mark(at, up(b), name + (f" ± {y(half)}" if half else "")))
    return "".join(parts)


def dots(title: str, names: Sequence[str], series: Sequence[Series], axis: Axis) -> Figure:
    """A row per name, a marker per series; points are ``(number of the row, value, None)``."""
    row = 22.0 if len(names) <= 40 else 12.0
    left = 14 + 6.4 * max(len(shortened(name)) for name in names)
    height = 12 + row * len(names) + 46
    across = Scale(*span([p[1] for each in series for p in each.points]), left, WIDTH - 12)
    bottom = height - 46
    parts = []
    for i, name in enumerate(names):
        y = 12 + (i + 0.5) * row
        parts.append(el("line", x1=left, x2=WIDTH - 12, y1=y, y2=y, class_="grid"))
        parts.append(text(left - 6, y + 4, shortened(name), "end", "small"))
    parts += _scale(across, ticks(across.low, across.high), bottom, axis.fmt)
    for each in series:
        for at, value, _ in each.points:
            said = f"{each.name}, {names[int(at)]}: {axis.fmt(value)}"
            parts.append(each.style.mark(across(value), 12 + (at + 0.5) * row, said))
    parts.append(el("line", x1=left, x2=WIDTH - 12, y1=bottom, y2=bottom, class_="edge"))
    parts.append(text((left + WIDTH) / 2, height - 8, axis.label, "middle", "label"))
    legend = tuple((each.style.sample(), each.name) for each in series)
    words = [f"{axis.label} of each ticket."]
    for each in series:
        ends = (pick(each.points, key=lambda p: p[1]) for pick in (min, max))
        low, high = (f"{names[int(at)]}, {axis.fmt(value)}" for at, value, _ in ends)
        words.append(f"{each.name}: lowest {low}; highest {high}.")
    return Figure(title, " ".join(words), "".join(parts), height, legend)


def bars(title: str, rows: Mapping[str, Mapping[str, float]], label: str, kinds: Mapping[str, str]) -> Figure:
    """Horizontal stacked bars by name; ``kinds`` names the pieces and how each is filled (a class)."""
    left = 14 + 6.4 * max(map(len, rows))
    height = 8 + 20.0 * len(rows) + 46
    totals = {name: sum(pieces.values()) for name, pieces in rows.items()}
    most = max(totals.values()) or 1.0
    across, bottom = Scale(0.0, most, left, WIDTH - 70), height - 46
    parts = []
    for i, (name, pieces) in enumerate(rows.items()):
        y, x = 8 + i * 20.0, left
        parts.append(text(left - 6, y + 13, name, "end", "small"))
        for kind, count in pieces.items():
            wide = across(count) - left
            said = el("title", escape(f"{name}, {kind}: {whole(count)}"))
            parts.append(el("rect", said, x=x, y=y + 2, width=wide, height=15, class_=kinds[kind]))
            x += wide
        parts.append(text(x + 4, y + 13, short(totals[name]), "start", "small"))
    parts += _scale(across, ticks(0.0, most, 5), bottom, short, 17, "small")
    parts.append(el("line", x1=left, x2=WIDTH - 70, y1=bottom, y2=bottom, class_="edge"))
    parts.append(text((left + WIDTH - 70) / 2, height - 8, label, "middle", "label"))
    said = " ".join(f"{name}: {whole(total)}." for name, total in totals.items())
    legend = ((el("rect", x=5, y=1, width=20, height=12, class_=fill), kind) for kind, fill in kinds.items())
    return Figure(title, f"{label}. {said}", "".join(parts), height, tuple(legend))


def short(value: float) -> str:
    """A large count in three or four signs.

    >>> short(950), short(66_158), short(1_250_000), short(0)
    ('950', '66K', '1.2M', '0')
    """
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{sign}" if scaled >= 10 else f"{scaled:.1f}".removesuffix(".0") + sign
    return f"{value:.0f}"


# -- elements of SVG ----------------------------------------------------------------------------------------


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
