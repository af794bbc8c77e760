"""Chapters on the tickets themselves: their layers, how alike they are, how they fail, how they learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tombola.lab.report.blocks import Block, Charts, Tabled, Words
from tombola.lab.report.charts import Axis, Chart, Point, evenly, heat, lines
from tombola.lab.report.findings import Findings, Likeness, likenesses
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, share, whole
from tombola.lab.report.verdicts import Headline, headlines
from tombola.methods.table import METHODS
from tombola.training.callbacks.collapse import alarms

_CELLS = 24_000  # of the heat maps of one chart: a page with 100 tickets would be megabytes
_STATES = 24  # of one chart
_STEPS = 60  # of one curve of training
_KINDS = {"jaccard": "Jaccard", "kappa": "kappa"}  # side by side, in this order
_MEASURES = (
    "Jaccard: of the weights that either ticket keeps, the share that both keep. It falls with sparsity by "
    "chance alone. kappa is corrected for that: 0 for independent masks of the same layer densities, 1 where "
    "one mask holds the other."
)
_PATHS = (
    "Score of each ticket against its mean similarity to the others, along the sparsities. The paper "
    "expects similarity to rise where scores fall (collapse); Jaccard falls with sparsity by chance alone, "
    "kappa does not."
)
_WATCHED = (
    "After every round the search records what needs no label: how alike tickets are, and how many weights "
    "the smallest layer keeps. An alarm is no proof: docs/results/collapse.md says how late it was."
)


def layers(found: Findings) -> list[Block]:
    """Density per layer and ticket, a state per sparsity."""
    unread = f"Ticket files that could not be read: {'; '.join(found.notes)}."
    blocks: list[Block] = [Words([unread], "missing")] if found.notes else []
    if found.described is None:
        none = "There are no ticket files to look into, so layers are missing."
        return [*blocks, Words([none], "missing")]
    states = {f"{s:.0%} removed": pd.DataFrame(file["layers"]) for s, file in found.files.items()}
    short = next(iter(states.values())).index.str.removesuffix(".weight")
    states = {state: each.set_axis(short) if short.is_unique else each for state, each in states.items()}
    title = f"Share of weights kept per layer, {found.subject}"
    drawn = heat(title, states, Axis("kept", share), (0.0, 1.0))
    where = f"Layers from input to output, of the ticket files of {found.described.label}; dark is empty."
    return [*blocks, Words([where]), Charts([drawn])]


def likeness(found: Findings) -> list[Block]:
    """Similarity of each pair of tickets round by round, also by depth, and score against similarity."""
    known = likenesses(found)
    if not known:
        alone = len({key[4] for key in found.values if key[4]}) < 2
        why = "With one ticket there is no pair." if alone else "No similarity was recorded or could be read."
        return [Words([why], "plain" if alone else "missing")]
    run = f" of {found.described.label}" if found.described else ""
    first = f"The tickets of {found.subject}{run}. Colours are the same in all states of a chart: "
    first += "from the least to the greatest similarity of two different tickets."
    depths = [depth for _, depth in known if depth != "all"]
    by_depth = {depth: _pairs(known, depth) for depth in ["all", *dict.fromkeys(depths)]}
    whole_ones = by_depth.pop("all")
    parts = [chart for charts in by_depth.values() for chart in charts]
    by_third = Charts(parts, "The same by depth: a third of the layers each")
    blocks: list[Block] = [Words([_MEASURES, first]), Charts(whole_ones), by_third]
    paths = _paths(found, known.get(("kappa", "all")) or known.get(("jaccard", "all")) or [])
    return [*blocks, Words([_PATHS]), Charts(paths)] if paths else blocks


def _pairs(known: Mapping[tuple[str, str], list[Likeness]], depth: str) -> list[Chart]:
    """A chart per kind of similarity, with its states."""
    charts = []
    for kind, name in _KINDS.items():
        if states := known.get((kind, depth)):
            most = max(2, min(_STATES, _CELLS // states[0].frame.size))
            shown = {state.name: state.frame for state in evenly(states, most)}
            some = f" ({len(shown)} of {len(states)} states)" if len(shown) < len(states) else ""
            title = f"{name}{'' if depth == 'all' else f', {depth} layers'}{some}"
            charts.append(heat(title, shown, Axis("similarity", share)))
    return charts


def _paths(found: Findings, states: list[Likeness]) -> list[Chart]:
    """Per headline with scores of tickets: a path per ticket over sparsities; none for one sparsity."""
    at = {s: min(states, key=lambda state: abs(state.density - 1 + s)) for s in found.sparsities if states}
    near = {s: state for s, state in at.items() if abs(state.density - 1 + s) < 0.01}
    charts = []
    for headline in headlines(found):
        points = [point for s, state in near.items() for point in _at(found, headline, s, state)]
        if len(points) > len({point[0] for point in points}):
            x, y = Axis("mean similarity to the other tickets", share), headline.info
            title = f"{headline.title} against similarity"
            charts.append(lines(title, points, x, Axis(y.label, y.write)))
    return charts


def _at(found: Findings, headline: Headline, sparsity: float, state: Likeness) -> list[Point]:
    """Mean similarity and score of each ticket; scores of the run whose tickets these are."""
    alike = state.frame.mask(np.eye(len(state.frame), dtype=bool)).mean(axis=1)
    points: list[Point] = []
    for ticket, mean in alike.dropna().items():
        by_unit = found.values.get((found.subject, sparsity, *headline.key, ticket), {})
        unit = found.described.unit if found.described else next(iter(by_unit), None)
        if unit in by_unit:
            points.append((ticket, "measured", mean, by_unit[unit], None))
    return points


def collapse(found: Findings) -> list[Block]:
    """Nothing where no search was watched (runs that are older than the alarm)."""
    watched = found.of("watch", search="own")
    said = [f"{row['run']}: {words}." for row in found.of("alarm") for words in alarms([row])]
    if not watched and not said:
        return []
    runs = len({row["run"] for row in watched})
    said = said or [f"No alarm in {runs} watched {'run' if runs == 1 else 'runs'}."]
    body = []
    for row in watched:
        kappa = "" if row.get("kappa") is None else share(row["kappa"])
        body.append([row["run"], f"{1 - row['density']:.1%}", kappa, str(row.get("fewest", ""))])
    header = ["run", "removed", "mean kappa", "weights in the smallest layer"]
    measured = Tabled(Table("Likeness and the smallest layer, round by round", header, body))
    return [Words([_WATCHED]), Words(said, "lead"), measured]


def course(found: Findings) -> list[Block]:
    """Loss at the end of each round of the search, and over steps per ticket; one run of each."""
    rounds = [{**row, "step": row["round"] + 1} for row in found.of("prune", search="own") if "loss" in row]
    first = [row for row in rounds if row["run"] == rounds[0]["run"]]
    charts = [_losses("Loss at the end of each round of the search, own subsets", first, "round")]
    trained = [row for row in found.of("retrain") if row.get("phase") == "train"]
    alone: list[Row] = []
    ends = []
    for arm in dict.fromkeys((row["method"], row["sparsity"]) for row in trained):
        mine = [row for row in trained if (row["method"], row["sparsity"]) == arm]
        mine = [row for row in mine if row["run"] == mine[0]["run"]]
        tickets = {row["ticket"]: row["loss"] for row in mine}
        if METHODS[arm[0]].control:
            continue
        if len(mine) == len(tickets):
            losses = min(tickets.values()), float(np.mean(list(tickets.values()))), max(tickets.values())
            ends.append([arm[0], f"{arm[1]:.0%}", str(len(tickets)), *(f"{loss:.3f}" for loss in losses)])
        elif len(tickets) == 1:
            alone += [{**row, "ticket": f"{arm[0]} {arm[1]:.0%}"} for row in mine]
        else:
            charts.append(_losses(f"Loss in training, {arm[0]}, {arm[1]:.0%} removed", mine, "step"))
    charts.append(_losses("Loss in training, one network each", alone, "step"))
    shown = [chart for chart in charts if chart is not None]
    blocks: list[Block] = [Charts(shown)] if shown else []
    if ends:
        header = ["method", "sparsity", "tickets", "least loss", "mean loss", "greatest loss"]
        title = "Loss at the end of training (recorded once, so there is no curve)"
        blocks.append(Tabled(Table(title, header, ends)))
    return blocks or [Words(["No loss was recorded yet."], "missing")]


def _losses(title: str, rows: Sequence[Row], label: str) -> Chart | None:
    """A line per ticket; None unless there is one of two points."""
    by_ticket: dict[str, list[Point]] = {}
    for row in rows:
        by_ticket.setdefault(row["ticket"], []).append(
            (row["ticket"], "measured", row["step"], row["loss"], None)
        )
    points = [point for each in by_ticket.values() for point in evenly(each, _STEPS)]
    x, y = Axis(label, whole), Axis("loss", lambda value: f"{value:.2f}")
    return lines(title, points, x, y) if len(points) > len(by_ticket) else None
