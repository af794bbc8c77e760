"""Charts of Altair: with words and a table for those who do not see them, as a part of a page or as a file.

Colours are variables of the style sheet of the page, which decides them for light and dark; a file has the
light ones.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from tombola._utils.io import write_bytes
from tombola.lab.report.tables import Format, Table, whole
from tombola.methods.table import METHODS, dense

VEGA_LITE = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
SHAPES = (
    *("circle", "square", "diamond", "triangle-up", "triangle-down"),
    *("cross", "triangle-left", "triangle-right"),
)
COLOURS = [f"var(--k{i})" for i in range(len(SHAPES))]
PIECES = [f"var(--f{i})" for i in range(4)]
DASHES = {"measured": [1, 0], "control": [6, 4], "in the paper": [2, 4]}
_TOLD_APART = 10  # series with a colour and a shape of their own; more are thin lines and their mean
_COLUMNS = 12  # of the table of a chart of lines
_WRITTEN = 14  # columns of a heat map whose values stand in the cells

# Names of layers and tickets differ at their ends.
_SHORT = "length(datum.value) > 26 ? slice(datum.value, 0, 12) + '…' + slice(datum.value, -13) : datum.value"
_NAMES: dict[str, Any] = {"labelOverlap": True, "labelExpr": _SHORT}

Interval = float | tuple[float, float] | None  # half its width, or its ends
Point = tuple[str, str, float, float, Interval]  # series, one of `DASHES`, x, y


@dataclass(frozen=True)
class Chart:
    """What it is called, what it shows in words, how it is drawn from a frame, and its numbers."""

    title: str
    about: str
    drawn: Any  # of Altair, without the frame: it would copy that many times
    frame: pd.DataFrame
    table: Table

    @property
    def spec(self) -> str:
        """As Vega-Lite, in JSON that may stand in a page."""
        found = {k: v for k, v in self.drawn.to_dict().items() if k not in ("$schema", "config")}
        packed = {**found, "datasets": {self.title: _packed(self.frame)}}
        return json.dumps(packed, separators=(",", ":")).replace("<", "\\u003c")


@dataclass(frozen=True)
class Axis:
    """What is measured along an edge; how it is written; how its ticks are, in the language of D3."""

    label: str
    write: Format
    ticks: str = ""


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{value:.0%}"


REMOVED = Axis("share of weights removed", percent, ".0%")


def lines(title: str, points: Iterable[Point], x: Axis, y: Axis, order: Sequence[str] = ()) -> Chart:
    """Lines with markers and intervals, a colour and a shape per series; of many, thin lines and their mean.

    ``order`` names series that charts have in common, so that they look the same on all.
    """
    known = [(*point[:4], *_interval(*point[3:], y.write)) for point in points]
    frame = pd.DataFrame(known, columns=["series", "kind", "x", "y", "low", "high", "value"])
    frame = frame.dropna(subset=["x", "y"]).assign(at=frame.x.map(x.write))
    table, where = _pivot(title, frame, x.label), frame.series + " at " + frame["at"]
    about = f"{title}: {y.label} over {x.label}. {_ends(where, frame.y, y.write)}"
    levels = sorted(set(frame.x))
    along = alt.Axis(values=levels if len(levels) <= 8 else alt.Undefined, format=x.ticks or alt.Undefined)
    base = _of(title).encode(
        alt.X("x:Q", title=x.label, axis=along).scale(zero=False, padding=12),
        alt.Y("y:Q", title=y.label, axis=alt.Axis(format=y.ticks or alt.Undefined)).scale(zero=False),
        tooltip=[_told("series"), _told("kind"), _told("at", x.label), _told("value", y.label)],
    )
    names = list(order or frame.series.drop_duplicates())
    shown = [name for name in names if name in set(frame.series)]
    if len(shown) > _TOLD_APART and not order:
        mean = _mean(frame)
        color = alt.Color("series:N", legend=_legend(mean.series)).scale(range=COLOURS[1:2])
        thin = base.mark_line(color=COLOURS[0], opacity=0.3, strokeWidth=1).encode(detail="series:N")
        thin = thin.transform_filter("datum.kind != 'mean'")
        thick = base.mark_line().encode(color).transform_filter("datum.kind == 'mean'")
        return Chart(title, about, _sized(thin + thick), pd.concat([frame, mean]), table)
    color, shape = _style("series", names, shown)
    kinds = [kind for kind in DASHES if kind in set(frame.kind)]
    dash = alt.StrokeDash("kind:N", legend=_legend(kinds) if len(kinds) > 1 else None)
    dash = dash.scale(domain=kinds, range=[DASHES[kind] for kind in kinds])
    drawn = base.mark_line().encode(color, dash) + base.mark_point(filled=True, size=60).encode(color, shape)
    if frame.low.notna().any():
        drawn += base.mark_rule().encode(alt.Y("low:Q", title=y.label), alt.Y2("high:Q"), color)
    return Chart(title, about, _sized(drawn), frame, table)


def curves(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Point]:
    """The points of rows by method over sparsity; what is not pruned is a level line over all of them."""
    most = max((row["sparsity"] for own in rows.values() for row in own), default=0.0)
    points: list[Point] = []
    for name, own in rows.items():
        kind = "control" if METHODS[name].control else "measured"
        own = sorted(own, key=lambda row: row["sparsity"])
        points += [(name, kind, row["sparsity"], row["mean"], row["ci95"]) for row in own]
        if len(own) == 1 and METHODS[name].masks is dense and most > 0:
            points.append((name, kind, most, own[0]["mean"], None))
    return points


def _interval(y: float, found: Interval, write: Format) -> tuple[float, float, str]:
    """Its ends, and the value with it."""
    if found is None:
        return math.nan, math.nan, write(y)
    if isinstance(found, tuple):
        return *found, f"{write(y)} ({write(found[0])} to {write(found[1])})"
    return y - found, y + found, f"{write(y)} ± {write(found)}"


def _mean(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean of the series that are whole, point by point."""
    whole_ones = frame[frame.groupby("series").x.transform("size") == frame.groupby("series").size().max()]
    mean = whole_ones.groupby(whole_ones.groupby("series").cumcount())[["x", "y"]].mean()
    return mean.assign(series=f"mean of {whole_ones.series.nunique()} tickets", kind="mean")


def dots(title: str, frame: pd.DataFrame, axis: Axis, order: Sequence[str], table: Table) -> Chart:
    """A row per ticket, a marker per method: of a frame with ``ticket``, ``method`` and ``mean``."""
    frame, rows = frame.assign(value=frame["mean"].map(axis.write)), frame.ticket.nunique()
    about = f"{title}. {_ends(frame.method + ', ' + frame.ticket, frame['mean'], axis.write)}"
    drawn = _of(title).mark_point(filled=True, size=60)
    drawn = drawn.encode(
        alt.X("mean:Q", title=axis.label).scale(zero=False),
        alt.Y("ticket:N", sort=None, title=None, axis=alt.Axis(grid=True, labelOverlap=True)),
        *_style("method", order, [name for name in order if name in set(frame.method)]),
        tooltip=[_told("ticket"), _told("method"), _told("value", axis.label)],
    )
    return Chart(title, about, _sized(drawn, rows, 22 if rows <= 40 else 10), frame, table)


def bars(title: str, cells: pd.DataFrame, label: str) -> Chart:
    """Horizontal bars, one per row of a frame, of a piece per column."""
    frame = cells.rename_axis("name").reset_index().melt("name", var_name="piece", value_name="count")
    frame = frame.assign(place=pd.factorize(frame.piece)[0], value=frame["count"].map(whole))
    totals, pieces = cells.sum(axis=1), list(cells.columns)
    about = f"{title}: {label}. {_ends(totals.index, totals, whole)}"
    drawn = _of(title).mark_bar(stroke="var(--paper)", strokeWidth=0.6)
    drawn = drawn.encode(
        alt.X("count:Q", title=label, axis=alt.Axis(format="~s", tickCount=5)),
        alt.Y("name:N", sort=None, title=None),
        alt.Color("piece:N", legend=_legend(pieces)).scale(domain=pieces, range=PIECES[: len(pieces)]),
        alt.Order("place:Q"),
        tooltip=[_told("name", "method"), _told("piece"), _told("value", label)],
    )
    table = _frame(title, cells.assign(all=totals).map(whole))
    return Chart(title, about, _sized(drawn, len(cells)), frame, table)


def heat(
    title: str, states: Mapping[str, pd.DataFrame], axis: Axis, limits: tuple[float, float] | None = None
) -> Chart:
    """Frames of equal rows and columns as colours between two limits; of several, the one that is picked.

    Limits are by default those of the values, without the diagonal where rows and columns are the same.
    """
    several = len(states) > 1
    cells = pd.concat(states, names=["state", "row"]).rename_axis(columns="column")
    frame = cells.stack(future_stack=True).round(4).rename("value").reset_index()
    first = next(iter(states.values()))
    rows, columns = list(first.index), list(first.columns)
    other = frame[frame.row != frame.column] if rows == columns else frame
    low, high = limits or (other.value.min(), other.value.max())
    low, high = (low, high) if high > low else (0.0, 1.0)  # one value, or none
    about = f"{title}, {len(rows)} rows, {len(columns)} columns. "
    about += _ends(other.row + ", " + other.column, other.value, axis.write)
    base = _of(title).encode(
        alt.X("column:N", sort=None, title=None, axis=alt.Axis(labelAngle=-50, **_NAMES)),
        alt.Y("row:N", sort=None, title=None, axis=alt.Axis(**_NAMES)),
        tooltip=[_told("row"), _told("column"), alt.Tooltip("value:Q", title=axis.label)],
    )
    color = alt.Color("value:Q", title=axis.label, legend=alt.Legend(orient="bottom", gradientLength=200))
    drawn = base.mark_rect().encode(color.scale(scheme="viridis", domain=[low, high], clamp=True))
    if len(columns) <= _WRITTEN:
        ink = alt.ExprRef(f"datum.value < {(low + high) / 2:g} ? 'white' : 'black'")
        text = base.mark_text(fontSize=alt.ExprRef("bandwidth('x') < 24 ? 0 : 10"))
        drawn += text.encode(alt.Text("value:Q", format=".2f"), color=alt.value(ink))
    if several:
        pick = alt.binding_select(options=list(states), name="Shown: ")
        drawn = drawn.add_params(alt.param(name="state", value=list(states)[-1], bind=pick))
        drawn = drawn.transform_filter("datum.state == state")
    written = cells.map(axis.write, na_action="ignore").fillna("").reset_index()
    body = written.drop(columns=[] if several else "state").to_numpy().tolist()
    table = Table(title, [*["state"] * several, "", *columns], body)
    return Chart(title, about, _sized(drawn, len(rows), max(24 - len(rows) // 5, 6)), frame, table)


# -- what charts have in common -----------------------------------------------------------------------------


def _of(name: str) -> alt.Chart:
    """A chart of data that it is given later."""
    return alt.Chart(alt.NamedData(name))


def _packed(frame: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """The different values of each column, and which one each row has: a tenth of the size of the rows."""
    found = {}
    for name in frame:
        at, values = pd.factorize(frame[name], use_na_sentinel=False)
        found[str(name)] = [[None if pd.isna(value) else value for value in values.tolist()], at.tolist()]
    return found


def _sized(drawn: Any, rows: int = 0, step: int = 24) -> Any:
    """As wide as its place, and as high as its rows, where it has some."""
    return drawn.properties(width="container", height=rows * step if rows else 240)


def _style(field: str, names: Sequence[str], shown: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """Colours and shapes by the place of a name among all, in one legend; no two names have both the same."""
    places, n, legend = [names.index(name) for name in shown], len(COLOURS), _legend(shown)
    colors, shapes = [COLOURS[i % n] for i in places], [SHAPES[(i + i // n) % n] for i in places]
    color, shape = alt.Color(f"{field}:N", legend=legend), alt.Shape(f"{field}:N", legend=legend)
    return color.scale(domain=shown, range=colors), shape.scale(domain=shown, range=shapes)


def _legend(names: Iterable[str]) -> alt.Legend:
    """As many columns as a telephone has room for."""
    longest = max(map(len, names), default=0)
    return alt.Legend(title=None, orient="bottom", columns=3 if longest <= 10 else 2 if longest <= 18 else 1)


def _told(name: str, title: str = "") -> alt.Tooltip:
    return alt.Tooltip(f"{name}:N", title=title or name)


def _ends(names: Any, values: pd.Series, write: Format) -> str:
    """Least and greatest, in words."""
    named = pd.Series(list(values), index=list(names), dtype=float).dropna()
    if named.empty:
        return "No values."
    (low, high) = ((named.iloc[i], named.index[i]) for i in (named.argmin(), named.argmax()))
    return f"Least {write(low[0])} ({low[1]}), greatest {write(high[0])} ({high[1]})."


def _pivot(title: str, frame: pd.DataFrame, label: str) -> Table:
    """A row per line, a column per place along it; of many places some, evenly."""
    places = frame.drop_duplicates("x").sort_values("x")["at"].drop_duplicates()
    kept = places.iloc[evenly(range(len(places)), _COLUMNS)]
    series = frame.series.where(frame.kind == "measured", frame.series + ", " + frame.kind)
    mine = frame.assign(series=series)[frame["at"].isin(kept)]
    cells = mine.pivot_table("value", "series", "at", "first", sort=False, fill_value="")
    return _frame(title, cells[[at for at in kept if at in cells]], label)


def _frame(title: str, cells: pd.DataFrame, label: str = "") -> Table:
    """The cells of a frame, with its index as the first column."""
    body = [[str(name), *line] for name, line in zip(cells.index, cells.to_numpy().tolist(), strict=True)]
    return Table(title, [label, *map(str, cells.columns)], body)


def evenly(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly spread, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


# -- files --------------------------------------------------------------------------------------------------


@cache
def template(name: str) -> str:
    """A file of the page."""
    return (files("tombola.lab.report") / "templates" / name).read_text()


def save(grid: Sequence[Sequence[Chart]], file: Path) -> None:
    """Write rows of charts as one ``.svg``, ``.png`` or ``.pdf``, in the colours of the page on paper."""
    own: Any = {"color": "independent", "shape": "independent", "strokeDash": "independent"}
    rows = [[chart.drawn.properties(title=chart.title, width=360) for chart in row] for row in grid]
    drawn = alt.vconcat(*(alt.hconcat(*row).resolve_scale(**own) for row in rows)).resolve_scale(**own)
    light = dict(re.findall(r"--(\w+): ([^;]+);", template("report.css").partition("}")[0]))
    config = {**json.loads(template("vega.json")), "background": light["paper"]}
    charts = [chart for row in grid for chart in row]
    data = {chart.title: json.loads(chart.frame.to_json(orient="records")) for chart in charts}
    written = json.dumps({**drawn.to_dict(), "config": config, "datasets": data})
    plain = json.loads(re.sub(r"var\(--(\w+)\)", lambda found: light[found[1]], written))
    kinds: dict[str, Any] = {".svg": vl_convert.vegalite_to_svg, ".png": vl_convert.vegalite_to_png}
    content = kinds.get(file.suffix.lower(), vl_convert.vegalite_to_pdf)(plain, vl_version=VEGA_LITE)
    write_bytes(file, content.encode() if isinstance(content, str) else content)
