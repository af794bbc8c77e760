"""From what was found of one comparison to the chapters of its section, the answer first."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report import advice, kept, semantics
from tombola.lab.report.again import commands, configuration
from tombola.lab.report.blocks import Block, Charts, Commands, Gallery, Section, Shelf, Tabled, Words
from tombola.lab.report.charts import REMOVED, Axis, Chart, bars, curves, dots, lines, percent
from tombola.lab.report.findings import Arm, Findings
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import SIMILAR, STORED, Paper, Table, heading, paper_of, tables
from tombola.lab.report.tickets import collapse, course, layers, likeness
from tombola.lab.report.verdicts import (
    MARKS,
    Headline,
    Verdict,
    differences,
    headlines,
    overview,
    verdict,
    verdicts,
)
from tombola.methods.table import METHODS

_STORED = ["core", "union", "private", "dense_rest", "mask_bytes", "file_bytes"]
_SEEDS = 3  # from which on an interval says something


def section(found: Findings, rows: Sequence[Row], shelf: Shelf) -> Section:
    """All chapters; those without anything to show say what is missing, or are left out."""
    named, paper = tables(rows), paper_of(found.head)
    media = shelf.take([ran.path for ran in found.runs], any(ran.unit[0] for ran in found.runs))
    judged = bool(found.methods)
    chapters: dict[str, list[Block]] = {
        "The answer": _answer(found, paper),
        "Sparsity and quality": _quality(found, rows, paper, named) if judged else [],
        "Do tickets pay here?": advice.chapter(found),
        "The score of each ticket": _by_ticket(found, named) if judged else [],
        "What is stored": _stored(found, named) if judged else [],
        "Where the weights went": layers(found) if judged else [],
        "How alike the tickets are": [*likeness(found), *_titled(named, SIMILAR)] if judged else [],
        "Has pruning gone too far?": collapse(found),
        "Do tickets of related subsets look alike?": semantics.chapter(found),
        "Who answers where no context is given?": kept.routing(found),
        "What are the probabilities worth?": kept.calibration(found),
        "The course of training": course(found),
        "Pictures and sounds": [Gallery(media)] if media else [],
        "Configuration, and how to run it again": configuration(found),
    }
    full = {title: [block for block in blocks if block] for title, blocks in chapters.items()}
    shown = {title: blocks for title, blocks in full.items() if blocks}
    return Section(heading(found.head), shown, _said(found, paper))


def _titled(named: Sequence[Table], title: str) -> list[Block]:
    return [Tabled(table) for table in named if table.title == title]


# -- the answer -------------------------------------------------------------------------------------------


def _answer(found: Findings, paper: Paper) -> list[Block]:
    """Who is ahead, how sure that is, what it stores, what to do next; then every paired difference."""
    made = verdicts(found, paper)
    blocks: list[Block] = [Words(_said(found, paper), "lead")]
    if not found.methods:
        blocks.append(Words(["Nothing was judged yet, so there is nothing to compare."], "missing"))
    if shown := overview(found, made, paper):
        blocks.append(Tabled(shown, folded=False))
    blocks += _next(found, made)
    if made:
        over = "items" if found.items > 1 else "seeds"
        blocks += [Tabled(differences(made, over), folded=False), Words([MARKS.format(over=over)], "note")]
    named = {name: " (control)" * METHODS[name].control for name in found.methods}
    lines = [[name + control, METHODS[name].summary] for name, control in named.items()]
    methods = Table("What the methods are", ["method", "in a line"], lines)
    return [*blocks, Words([_compared(found)]), Tabled(methods, words=True)]


def _said(found: Findings, paper: Paper) -> list[str]:
    """The verdict in words, after what was said beforehand."""
    alone = ["There is no second method to compare with."] if found.methods else []
    return advice.answer(found) + (verdict(found, paper) or alone)


def _next(found: Findings, made: Sequence[Verdict]) -> list[Block]:
    """What is missing and what goes on; else more seeds; else how to ask what came out ahead."""
    missing = []
    for ran in found.runs:
        known = ran.config.get("experiment")
        onwards = "`tombola resume` with its directory" if known else "The program of your own that made it"
        which = ", ".join(f"{method} at {s:.0%}" for method, s in ran.missing)
        words = f"{ran.label} is not finished: {which} is missing. {onwards} goes on from where it stopped."
        missing += [words] if ran.missing else []
    if missing:
        return [Words(missing, "missing")]
    seeds, again = {ran.unit[1] for ran in found.runs}, commands(found.runs)
    if found.items == 1 and len(seeds) < _SEEDS and again:
        wanted = " ".join(map(str, sorted(seeds | set(range(_SEEDS)))))
        more = [re.sub(r"--seed( \d+)+", f"--seed {wanted}", line) for line in again]
        return [Commands("Next, more seeds, so that the interval says something:", more)]
    method, sparsity = _ahead(found, made)
    file = f"{method}-{sparsity}.tickets"
    if any((ran.path / "tickets" / file).exists() for ran in found.runs):
        return [Commands(f"Next, ask {method}:", [f"tombola predict RUN/tickets/{file} INPUT"])]
    return []


def _ahead(found: Findings, made: Sequence[Verdict]) -> Arm:
    """The subject at its middle sparsity, or what certainly leads it by most there, by the primary metric."""
    at, primary = found.middle, [headline for headline in headlines(found) if headline.info.primary][-1:]
    rivals = [v for v in made if v.headline in primary and not METHODS[v.theirs].control]
    ahead = [(a.measured.mean, v.theirs, a.sparsity, a.sign) for v in rivals for a in v.ahead]
    behind = [each for each in ahead if each[2:] == (at, "-")]
    return found.level(min(behind)[1] if behind else found.subject, at)


def _compared(found: Findings) -> str:
    """What was run; the methods are in a table below, sparsities in that above."""
    known = EXPERIMENTS.get(found.head[0])
    seeds = sorted({ran.unit[1] for ran in found.runs})
    words = f"{known.summary}." if known else "A program of your own."
    words += f" {'Seeds' if len(seeds) > 1 else 'Seed'}: {', '.join(map(str, seeds))}."
    return words + (f" Items, each with a network of its own: {found.items}." if found.items > 1 else "")


# -- scores -----------------------------------------------------------------------------------------------


def _quality(found: Findings, rows: Sequence[Row], paper: Paper, named: Sequence[Table]) -> list[Block]:
    """A chart per headline metric and reading, with the paper's figures; and all tables of readings."""
    charts, usual, controls = [], found.usual(), found.usual(control=True)
    for headline in headlines(found):
        charts.append(_curves(found, rows, headline, usual or found.methods, paper))
        if usual and controls:
            of = f": {found.subject} and its controls"
            charts.append(_curves(found, rows, headline, [found.subject, *controls], {}, of))
    others = [t for t in named if t.title not in (STORED, SIMILAR) and "by subset" not in t.title]
    return [Charts(charts), *map(Tabled, others)]


def _curves(
    found: Findings, rows: Sequence[Row], by: Headline, methods: Sequence[str], paper: Paper, of: str = ""
) -> Chart:
    """Means and intervals over sparsity; dotted what the paper prints."""
    mine = [r for r in rows if (r.get("reading", ""), r["metric"]) == by.key and "ticket" not in r]
    points = curves({name: [r for r in mine if r["method"] == name] for name in methods})
    for arm in paper:
        if arm[0] in methods and (value := by.printed(paper, arm)) is not None:
            points.append((arm[0], "in the paper", arm[1], value, None))
    return lines(by.title + of, points, REMOVED, Axis(by.info.label, by.info.write), found.methods)


def _by_ticket(found: Findings, named: Sequence[Table]) -> list[Block]:
    """Dots at the middle sparsity, and all sparsities in a table."""
    charts: list[Chart] = []
    for headline in headlines(found):
        here = (found.means.reading == headline.reading) & (found.means.metric == headline.info.name)
        frame = found.means[here & (found.means.ticket != "")].drop(columns=["reading", "metric"])
        charts += [_dots(found, headline, frame)] if len(frame) else []
    by_subset = [Tabled(table) for table in named if table.title.endswith("ahead of imp by subset")]
    return [Charts(charts), *by_subset]


def _dots(found: Findings, headline: Headline, frame: pd.DataFrame) -> Chart:
    own, write = sorted(set(frame.sparsity[frame.method == found.subject])), headline.info.write
    middle = own[len(own) // 2] if own else frame.sparsity.median()
    level = [found.level(method, middle)[1] for method in frame.method]
    here = frame[(frame.sparsity == level) & frame.method.isin(found.usual() or found.methods)]
    written = frame.assign(mean=frame["mean"].map(write), sparsity=frame.sparsity.map(percent))
    keys = ["method", "sparsity"]
    cells = written.pivot_table("mean", keys, "ticket", "first", sort=False, fill_value="").reset_index()
    table = Table(f"{headline.title}, means over seeds", list(cells.columns), cells.to_numpy().tolist())
    title, axis = f"{headline.title}, {middle:.0%} removed", Axis(headline.info.label, write)
    return dots(title, here if len(here) else frame, axis, found.methods, table)


def _stored(found: Findings, named: Sequence[Table]) -> list[Block]:
    """Numbers and bytes as bars and as a table; bars of controls only where there is nothing else."""
    means = found.means[found.means.method.isin(found.usual() or found.methods) & (found.means.ticket == "")]
    arms = means.method + " " + means.sparsity.map(percent)
    of = means.assign(arm=arms).pivot_table("mean", "arm", "metric", sort=False).reindex(columns=_STORED)
    numbers = {"core: kept by every ticket": of.core, "union without the core": of.union - of.core}
    numbers |= {"private to a ticket": of.private, "dense remainder": of.dense_rest}
    masks = of.mask_bytes.fillna(0.0)
    sizes = {"masks": masks, "all else": of.file_bytes - masks}
    pieces = [("Numbers stored", numbers, "numbers"), ("Ticket files", sizes, "bytes")]
    frames = [(title, pd.DataFrame(each).dropna(), unit) for title, each, unit in pieces]
    return [Charts([bars(*each) for each in frames if len(each[1])]), *_titled(named, STORED)]
