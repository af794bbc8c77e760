"""Chapters on scores and sizes: curves over sparsity, the score of each ticket, what is stored."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.lab.report.blocks import Block, Figures, Tabled
from tombola.lab.report.figures import Axis, Bar, Figure, Series, Style, bars, dots, method_style, percent, xy
from tombola.lab.report.findings import Findings, spread
from tombola.lab.report.tables import LIKE, Table
from tombola.lab.report.verdicts import Headline, Paper, headlines
from tombola.methods.table import METHODS, dense

STORED, SIMILAR = "What is stored", "Similarity of the masks, and cost"
_PIECES = {  # of what is stored: which metric, how it is filled
    "core: kept by every ticket": "fill0",
    "union without the core": "fill1",
    "private to a ticket": "fill2",
    "dense remainder": "fill3",
}


def titled(named: Sequence[Table], *titles: str) -> list[Block]:
    """The tables of these titles."""
    return [Tabled(table) for table in named if table.title in titles]


def quality(found: Findings, paper: Paper, named: Sequence[Table]) -> list[Block]:
    """A chart per headline metric and reading, and all tables of readings."""
    charts = []
    for headline in headlines(found):
        usual = [name for name in found.methods if not METHODS[name].control]
        printed = {} if headline.reading == LIKE else paper
        charts.append(_curves(found, headline, headline.title, usual or found.methods, printed))
        controls = [name for name in found.methods if METHODS[name].control]
        if usual and controls:
            title = f"{headline.title}: {found.subject} and its controls"
            charts.append(_curves(found, headline, title, [found.subject, *controls], {}))
    by_subset = [table for table in named if "by subset" in table.title]
    others = [t for t in named if t.title not in (STORED, SIMILAR) and t not in by_subset]
    blocks: list[Block] = [Figures(charts)] if charts else []
    return [*blocks, *(Tabled(table) for table in others)]


def _curves(found: Findings, headline: Headline, title: str, methods: Sequence[str], paper: Paper) -> Figure:
    """Means and intervals over sparsity; dotted what the paper prints; a dense network is a level."""
    series = []
    for method in methods:
        points = []
        for name, sparsity in found.outcomes:
            measured = spread(found.values.get((name, sparsity, headline.reading, headline.metric, ""), {}))
            if name == method and measured is not None:
                points.append((sparsity, measured.mean, measured.ci95))
        figures = {s: f for (m, s), f in paper.items() if m == method and headline.metric in f}
        chosen = method_style(method)
        series.append(Series(method, chosen, points))
        if points and METHODS[method].masks is dense:
            most = max(sparsity for _, sparsity in found.outcomes)
            level = [(0.0, points[0][1], None), (most, points[0][1], None)]
            series.append(Series(method, chosen, level, marked=False))
        if points and figures:
            printed = [(s, figures[s][headline.metric], None) for s in sorted(figures)]
            dotted = Style(chosen.number, hollow=True, dotted=True)
            series.append(Series(f"{method}, in the paper", dotted, printed))
    series = [each for each in series if each.points]
    levels = sorted({p[0] for each in series for p in each.points})
    x = Axis("share of weights removed", percent, levels, (min(levels) - 0.04, max(levels) + 0.04))
    return xy(title, series, x, Axis(headline.name, headline.fmt))


def by_ticket(found: Findings, named: Sequence[Table]) -> list[Block]:
    """Dots at the middle sparsity, and everything in tables."""
    charts, folded = [], []
    for headline in headlines(found):
        keys = [k for k in found.values if k[2:4] == (headline.reading, headline.metric) and k[4]]
        names = list(dict.fromkeys(k[4] for k in keys))
        if not names:
            continue
        own = sorted({k[1] for k in keys if k[0] == found.subject}) or sorted({k[1] for k in keys})
        middle = own[len(own) // 2]
        series = []
        for method in found.methods:
            level = 0.0 if METHODS[method].masks is dense else middle
            means = [found.mean((method, level, headline.reading, headline.metric, name)) for name in names]
            points = [(float(i), mean, None) for i, mean in enumerate(means) if mean is not None]
            if points and not METHODS[method].control:
                series.append(Series(method, method_style(method), points))
        if series:
            charts.append(
                dots(
                    f"{headline.title}, {middle:.0%} removed",
                    names,
                    series,
                    Axis(headline.name, headline.fmt),
                )
            )
        folded.append(Tabled(_ticket_table(found, headline, names)))
    by_subset = [Tabled(table) for table in named if "by subset" in table.title and "ahead" in table.title]
    return [*([Figures(charts)] if charts else []), *folded, *by_subset]


def _ticket_table(found: Findings, headline: Headline, names: Sequence[str]) -> Table:
    body = []
    for method, sparsity in found.outcomes:
        means = [found.mean((method, sparsity, headline.reading, headline.metric, name)) for name in names]
        if any(mean is not None for mean in means):
            body.append([method, f"{sparsity:.0%}", *("" if m is None else headline.fmt(m) for m in means)])
    return Table(f"{headline.title}, means over seeds", ["method", "sparsity", *names], body)


# -- what is stored ---------------------------------------------------------------------------------------


def stored(found: Findings, named: Sequence[Table]) -> list[Block]:
    """Numbers and bytes as bars and as a table; bars of controls only where there is nothing else."""
    numbers, sizes = [], []
    usual = [outcome for outcome in found.outcomes if not METHODS[outcome[0]].control]
    for method, sparsity in usual or found.outcomes:
        count = {
            m: found.mean((method, sparsity, "", m, "")) for m in ("core", "union", "private", "dense_rest")
        }
        name = f"{method} {sparsity:.0%}"
        if None not in count.values():
            core, union, private, rest = (float(value or 0) for value in count.values())
            pieces = zip(_PIECES, (core, union - core, private, rest), strict=True)
            numbers.append(Bar(name, dict(pieces)))
        masks, file = (found.mean((method, sparsity, "", m, "")) for m in ("mask_bytes", "file_bytes"))
        if file is not None:
            kept = masks or 0.0
            sizes.append(Bar(name, {"masks": kept, "all else": file - kept}))
    charts = [bars("Numbers stored", numbers, "numbers", _PIECES)] if numbers else []
    fills = {"masks": "fill0", "all else": "fill1"}
    charts += [bars("Ticket files", sizes, "bytes", fills)] if sizes else []
    return [*([Figures(charts)] if charts else []), *titled(named, STORED)]
