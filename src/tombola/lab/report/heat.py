"""Heat maps of a page: cells as rectangles with their values, or as one small picture when there are many."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from html import escape

from tombola.lab.report.figures import WIDTH, Figure, el, shortened, text
from tombola.lab.report.tables import Format

# From dark to light, even steps of lightness, blue to yellow: told apart by everybody, and in grey.
_RAMP = ((16, 32, 74), (44, 84, 132), (62, 141, 154), (139, 193, 158), (244, 238, 184))
_NOTHING = (150, 150, 150)
_CELLS = 700  # more than these are drawn as a picture: a page with 100 tickets would be megabytes
_SEAM = 0.6  # cells reach below the next, else a line of the page shines through where a figure is scaled
_TOP = 8.0
_LINE = 11.0  # height of a name; cells that are smaller leave some out

RGB = tuple[int, int, int]
Matrix = Sequence[Sequence[float]]


def heat(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Matrix,
    limits: tuple[float, float],
    fmt: Format,
) -> Figure:
    """A matrix ``[R][C]`` as colours between two limits, with a bar that says which is which.

    Values that are not finite are grey. Names are thinned where there are more than fit.
    """
    names = max(map(len, map(shortened, rows))), max(map(len, map(shortened, columns)))
    left = max(14 + 6.1 * names[0], 3.9 * names[1])  # turned names reach to the left
    wide = min((WIDTH - left - 10) / len(columns), 42.0)
    high = wide if len(rows) == len(columns) else min(12.0, 1200.0 / len(rows))
    beside, below = _thinned(rows, high), _thinned(columns, wide)
    bottom = _TOP + high * len(rows)
    deep = 14 + 4.6 * max(map(len, below.values()))
    pixels = [[colour(value, limits) for value in line] for line in values]
    if len(rows) * len(columns) > _CELLS:
        place = {"x": left, "y": _TOP, "width": wide * len(columns), "height": high * len(rows)}
        data = f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
        parts = [el("image", "", **place, preserveAspectRatio="none", class_="pixels", href=data)]
    else:
        named = {(i, j): f"{row}, {column}" for i, row in enumerate(rows) for j, column in enumerate(columns)}
        parts = [
            _cell(name, values[i][j], pixels[i][j], fmt, left + j * wide, _TOP + i * high, wide, high)
            for (i, j), name in named.items()
        ]
    for i, name in beside.items():
        parts.append(text(left - 5, _TOP + (i + 0.5) * high + 4, name, "end", "small"))
    for i, name in below.items():
        x, y = left + (i + 0.5) * wide + 3, bottom + 10
        parts.append(text(x, y, name, "end", "small", transform=f"rotate(-50 {x:.1f} {y:.1f})"))
    parts.append(_bar(left, bottom + deep, limits, fmt))
    desc = f"{len(rows)} rows, {len(columns)} columns. {_extremes(rows, columns, values, fmt)}"
    return Figure(title, desc, "".join(parts), bottom + deep + 34)


def colour(value: float, limits: tuple[float, float]) -> RGB:
    """Red, green and blue, 0 to 255, of a value between two limits; beyond them the outermost.

    >>> colour(0.0, (0, 1)), colour(1.0, (0, 1)), colour(float("nan"), (0, 1))
    ((16, 32, 74), (244, 238, 184), (150, 150, 150))
    """
    if not math.isfinite(value):
        return _NOTHING
    low, high = limits
    share = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 1.0
    at = share * (len(_RAMP) - 1)
    i = min(int(at), len(_RAMP) - 2)
    r, g, b = (round(x + (y - x) * (at - i)) for x, y in zip(_RAMP[i], _RAMP[i + 1], strict=True))
    return r, g, b


def _hex(rgb: RGB) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)


def _thinned(names: Sequence[str], size: float) -> dict[int, str]:
    """Every n-th name, so that they do not lie on each other, shortened."""
    step = math.ceil(_LINE / size)
    return {i: shortened(name) for i, name in enumerate(names) if i % step == 0}


def _cell(
    name: str, value: float, rgb: RGB, fmt: Format, x: float, y: float, wide: float, high: float
) -> str:
    """A rectangle, with the value itself where there is room."""
    words = fmt(value) if math.isfinite(value) else "none"
    place = {"x": x, "y": y, "width": wide + _SEAM, "height": high + _SEAM}
    drawn = el("rect", el("title", escape(f"{name}: {words}")), **place, fill=_hex(rgb), class_="cell")
    if wide >= 26 and high >= 14 and math.isfinite(value):
        ink = "on-light" if sum(rgb) > 380 else "on-dark"
        drawn += text(x + wide / 2, y + high / 2 + 4, words, "middle", ink)
    return drawn


def png(pixels: Sequence[Sequence[RGB]]) -> bytes:
    """A PNG file of 8-bit RGB; equal pixels give equal bytes, whatever library is installed."""
    lines = b"".join(b"\0" + bytes(part for rgb in line for part in rgb) for line in pixels)
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _bar(left: float, y: float, limits: tuple[float, float], fmt: Format) -> str:
    steps, wide = 32, min(200.0, WIDTH - left - 10)
    low, high = limits
    if not high > low:
        return text(left, y + 11, f"all: {fmt(high)}", "start", "small")
    parts = []
    for i in range(steps):
        fill = _hex(colour(low + (high - low) * i / (steps - 1), limits))
        x, across = left + i * wide / steps, wide / steps + 0.5
        parts.append(el("rect", x=x, y=y, width=across, height=10, fill=fill))
    ends = text(left, y + 23, fmt(low), "start", "small")
    return "".join(parts) + ends + text(left + wide, y + 23, fmt(high), "end", "small")


def _extremes(rows: Sequence[str], columns: Sequence[str], values: Matrix, fmt: Format) -> str:
    """Least and greatest, without the diagonal of a square."""
    square = list(rows) == list(columns)
    named = [
        (value, f"{row}, {column}")
        for i, (row, line) in enumerate(zip(rows, values, strict=True))
        for j, (column, value) in enumerate(zip(columns, line, strict=True))
        if math.isfinite(value) and not (square and i == j)
    ]
    if not named:
        return "No values."
    (low, where_low), (high, where_high) = min(named), max(named)
    return f"Least {fmt(low)} ({where_low}), greatest {fmt(high)} ({where_high})."
