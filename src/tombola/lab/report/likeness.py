"""Chapters on the tickets themselves: their layers, how alike they are, how they fail, how they learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tombola.lab.report.blocks import Block, Figures, Folded, Slides, Tabled, Words
from tombola.lab.report.figures import Axis, Figure, Series, Style, percent, xy
from tombola.lab.report.findings import Curve, Findings, Likeness
from tombola.lab.report.heat import heat
from tombola.lab.report.tables import Table, share, whole
from tombola.lab.report.verdicts import Headline, headlines
from tombola.methods.table import METHODS

T = TypeVar("T")
_FRAMES = 24  # of one slider
_ABREAST = 4  # pictures that need no slider
_POINTS = 60  # of one curve of training
_TOLD_APART = 10  # tickets with a colour and a shape of their own; more are thin lines and their mean
_KINDS = {"jaccard": "Jaccard", "kappa": "kappa"}  # side by side, in this order


def layers(found: Findings) -> list[Block]:
    """Density per layer and ticket, a picture per sparsity."""
    unread = f"Ticket files that could not be read: {'; '.join(found.notes)}."
    blocks: list[Block] = [Words([unread], missing=True)] if found.notes else []
    if found.described is None:
        none = "There are no ticket files to look into, so layers are missing."
        return [*blocks, Words([none], missing=True)]
    frames = []
    for sparsity, tickets in found.layers.items():
        names = list(next(iter(tickets.values())))
        values = [[tickets[ticket][layer] for ticket in tickets] for layer in names]
        short = [name.removesuffix(".weight") for name in names]
        labels = short if len(set(short)) == len(names) else names
        title = f"Share of weights kept per layer, {found.subject}, {sparsity:.0%} removed"
        drawn = heat(title, labels, list(tickets), values, (0.0, 1.0), share)
        frames.append((f"{sparsity:.0%} removed", [drawn]))
    where = f"Layers from input to output, of the ticket files of {found.described.label}; dark is empty."
    few = [figure for _, figures in frames for figure in figures]
    shown = Figures(few) if len(few) <= _ABREAST else Slides("Density per layer", frames)
    return [*blocks, Words([where]), shown]


def likeness(found: Findings) -> list[Block]:
    """Similarity of each pair of tickets, a slider per depth, and score against similarity."""
    depths = list(dict.fromkeys(depth for _, depth in found.likenesses))
    slides = {depth: _slides(found, depth) for depth in depths}
    if not slides:
        alone = len(found.tickets) < 2
        why = "With one ticket there is no pair." if alone else "No similarity was recorded or could be read."
        return [Words([why], missing=not alone)]
    run = f" of {found.described.label}" if found.described else ""
    first = f"The tickets of {found.subject}{run}. Colours are the same in all frames of a slider: "
    first += "from the least to the greatest similarity of two different tickets."
    parts = [each for depth, each in slides.items() if depth != "all"]
    blocks: list[Block] = [slides["all"]] if "all" in slides else []
    blocks += [Folded("The same by depth: a third of the layers each", parts)] if parts else []
    charts = collapse(found)
    after: list[Block] = [Words([_COLLAPSE]), Figures(charts)] if charts else []
    return [Words([_MEASURES, first]), *blocks, *after]


def _slides(found: Findings, depth: str) -> Slides:
    """Both kinds of similarity of one state after the other."""
    where = "" if depth == "all" else f", {depth} layers"
    frames: dict[str, list[Figure]] = {}
    for kind in [kind for kind in _KINDS if (kind, depth) in found.likenesses]:
        shown = _evenly(found.likenesses[kind, depth], _FRAMES)
        limits = _limits(shown)
        for state in shown:
            name = ", ".join(reversed(state.name.split(", ")))  # what was removed, then the round
            title = f"{_KINDS[kind]}{where}, {name}"
            drawn = heat(title, state.tickets, state.tickets, state.matrix, limits, share)
            frames.setdefault(name, []).append(drawn)
    most = max(len(states) for (_, d), states in found.likenesses.items() if d == depth)
    some = f" ({len(frames)} of {most} states)" if len(frames) < most else ""
    return Slides(f"Similarity of tickets{where}{some}", list(frames.items()))


_MEASURES = (
    "Jaccard: of the weights that either ticket keeps, the share that both keep. It falls with sparsity by "
    "chance alone. kappa is corrected for that: 0 for independent masks of the same layer densities, 1 where "
    "one mask holds the other."
)
_COLLAPSE = (
    "Score of each ticket against its mean similarity to the others, along the sparsities. The paper "
    "expects similarity to rise where scores fall (collapse); Jaccard falls with sparsity by chance alone, "
    "kappa does not."
)


def collapse(found: Findings) -> list[Figure]:
    """Per headline with scores of tickets: a path per ticket over sparsities; none for one sparsity."""
    states = found.likenesses.get(("kappa", "all")) or found.likenesses.get(("jaccard", "all")) or []
    at: dict[float, Likeness] = {}
    for s in found.sparsities if states else ():
        best = min(states, key=lambda state: abs(state.density - 1 + s))
        at |= {s: best} if abs(best.density - 1 + s) < 0.01 else {}
    figures = []
    for headline in headlines(found):
        paths = _paths(found, headline, at)
        if any(len(path) > 1 for path in paths.values()):
            label = "mean similarity to the other tickets"
            x, y = Axis(label, share), Axis(headline.info.label, headline.info.write)
            names = [percent(s) for s in at]
            figures.append(xy(f"{headline.title} against similarity", _bundle(paths, names), x, y))
    return figures


def _paths(found: Findings, headline: Headline, at: Mapping[float, Likeness]) -> dict[str, Curve]:
    """Points (mean similarity, score) of each ticket; scores of the run whose tickets these are."""
    paths: dict[str, Curve] = {}
    for sparsity, state in at.items():
        matrix = np.array(state.matrix, dtype=float)
        np.fill_diagonal(matrix, np.nan)
        for ticket, line in zip(state.tickets, matrix, strict=True):
            by_unit = found.values.get((found.subject, sparsity, *headline.key, ticket), {})
            unit = found.described.unit if found.described else next(iter(by_unit), None)
            others = line[np.isfinite(line)]
            if unit in by_unit and len(others):
                paths.setdefault(ticket, []).append((float(others.mean()), by_unit[unit]))
    return paths


def _bundle(paths: Mapping[str, Curve], names: Sequence[str] = ()) -> list[Series]:
    """A series per ticket; of many, thin lines and one thick line for their mean."""
    many = len(paths) > _TOLD_APART
    series = []
    for i, (ticket, curve) in enumerate(paths.items()):
        points = [(a, b, None) for a, b in curve]
        said = [f"{ticket}, {name}: {b:.3f}" for name, (_, b) in zip(names, curve, strict=False)]
        style = Style(0 if many else i, faint=many)
        series.append(Series(ticket, style, points, said if len(said) == len(points) else (), not many))
    if many:
        length = max(map(len, paths.values()))
        whole_ones = np.array([curve for curve in paths.values() if len(curve) == length])
        mean = [(float(a), float(b), None) for a, b in whole_ones.mean(0)]
        series.append(Series(f"mean of {len(whole_ones)} tickets", Style(1), mean, marked=length <= 12))
    return series


def course(found: Findings) -> list[Block]:
    """Loss over steps per ticket, and at the end of each round of the search; one run of each."""
    charts, alone, last = [], {}, []
    for (method, sparsity), curves in found.courses.items():
        if METHODS[method].control:
            continue
        if not any(len(curve) > 1 for curve in curves.values()):
            losses = [curve[-1][1] for curve in curves.values()]
            ends = (min(losses), sum(losses) / len(losses), max(losses))
            last.append([method, f"{sparsity:.0%}", str(len(losses)), *(f"{loss:.3f}" for loss in ends)])
        elif len(curves) == 1:
            alone[f"{method} {sparsity:.0%}"] = next(iter(curves.values()))
        else:
            charts.append(_course(f"Loss in training, {method}, {sparsity:.0%} removed", curves, "step"))
    charts += [_course("Loss in training, one network each", alone, "step")] if alone else []
    if any(len(curve) > 1 for curve in found.rounds.values()):
        title = "Loss at the end of each round of the search, own subsets"
        charts.insert(0, _course(title, found.rounds, "round"))
    blocks: list[Block] = [Figures(charts)] if charts else []
    if last:
        header = ["method", "sparsity", "tickets", "least loss", "mean loss", "greatest loss"]
        title = "Loss at the end of training (recorded once, so there is no curve)"
        blocks.append(Tabled(Table(title, header, last)))
    return blocks or [Words(["No loss was recorded yet."], missing=True)]


def _course(title: str, curves: Mapping[str, Curve], label: str) -> Figure:
    thinned = {ticket: _evenly(curve, _POINTS) for ticket, curve in curves.items()}
    steps = sorted({a for curve in thinned.values() for a, _ in curve})
    series = [replace(s, marked=s.marked and len(s.points) <= 12) for s in _bundle(thinned)]
    marks = steps if len(steps) <= 6 else None
    return xy(title, series, Axis(label, whole, marks), Axis("loss", lambda v: f"{v:.2f}"), 250.0)


def _evenly(values: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly spread, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _limits(states: Sequence[Likeness]) -> tuple[float, float]:
    """Least and greatest similarity of different tickets; colours are spent on those."""
    matrices = (np.array(state.matrix, dtype=float) for state in states)
    pairs = np.concatenate([matrix[~np.eye(len(matrix), dtype=bool)] for matrix in matrices])
    finite = pairs[np.isfinite(pairs)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
