"""The answer first: headline figures, a sentence per reading, and every difference in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tombola.lab.report.blocks import Block, Card, Cards, Cell, Line, Mark, Standings, Words
from tombola.lab.report.findings import Findings, spread
from tombola.lab.report.rows import Unit
from tombola.lab.report.tables import LIKE
from tombola.lab.report.verdicts import Ahead, Headline, Paper, Verdict, headlines, verdicts
from tombola.methods.table import METHODS

_READINGS = {"paper": "In the paper's reading ({})", LIKE: "Like for like ({})", "": "By {}"}
_SURE = "“Leads” and “trails” are said only where the 95% interval of a difference leaves out zero."
_UNSURE = "One seed: a direction, not a claim."
_MARKS = (
    "▲ ahead and ▼ behind: the 95% interval leaves out zero. Grey: it does not, or there is one run only. "
    "Differences are taken within a seed and an item; intervals are Student's t over {over}, each for "
    "itself: among many comparisons some leave out zero by chance."
)


def answer(found: Findings, paper: Paper) -> list[Block]:
    """What a reader came for."""
    made = verdicts(found, paper)
    shown = cards(found, made, paper)
    blocks: list[Block] = [Cards(found.subject, shown)] if shown else []
    if not made:
        return [*blocks, Words(["There is no second method to compare with."])]
    over = "items" if len({ran.unit[0] for ran in found.runs}) > 1 else "seeds"
    return [*blocks, Words(sentences(made), lead=True), standings(made, over)]


# -- headline figures -------------------------------------------------------------------------------------


def cards(found: Findings, made: Sequence[Verdict], paper: Paper) -> list[Card]:
    """A card per sparsity of the subject: the first metric of every reading."""
    first = {headline.reading: headline for headline in reversed(headlines(found))}
    chosen = [headline for headline in headlines(found) if first[headline.reading] is headline]
    usual = [name for name in found.methods if name != found.subject and not METHODS[name].control]
    rival = "imp" if "imp" in usual else next(iter(usual), "")
    against = {verdict.headline: verdict for verdict in made if verdict.theirs == rival}
    shown = []
    for sparsity in [s for method, s in found.outcomes if method == found.subject]:
        lines = [_line(found, headline, sparsity, against.get(headline), paper) for headline in chosen]
        if known := [line for line in lines if line is not None]:
            shown.append(Card(f"{sparsity:.0%} removed", known))
    return shown


def _line(
    found: Findings, headline: Headline, s: float, against: Verdict | None, paper: Paper
) -> Line | None:
    """The value; beside it the paper's figure, and the rival unless the reading is the paper's.

    Where the rival has not all runs, both values are of those that both have, as their difference is.
    """
    ours = _values(found, headline, found.subject, s)
    if not ours:
        return None
    measured = _shown(headline, ours)
    printed = paper.get((found.subject, s), {}).get(headline.metric) if headline.reading != LIKE else None
    beside = [] if printed is None else [("the paper", headline.fmt(printed))]
    ahead = next((a for a in against.ahead if a.sparsity == s), None) if against else None
    if against is None or ahead is None or (printed is not None and headline.reading == "paper"):
        return Line(headline.title, measured, beside)
    theirs = _values(found, headline, against.theirs, s) or _values(found, headline, against.theirs, 0.0)
    both = [unit for unit in ours if unit in theirs]
    title = headline.title + (f" ({len(both)} of {len(ours)} runs)" if len(both) < len(ours) else "")
    pair = [_shown(headline, {unit: values[unit] for unit in both}) for values in (ours, theirs)]
    difference = Cell(ahead.measured.mean_and_interval(headline.signed), _mark(ahead))
    return Line(title, pair[0], [*beside, (against.theirs, pair[1])], difference)


def _values(found: Findings, headline: Headline, method: str, sparsity: float) -> Mapping[Unit, float]:
    return found.values.get((method, sparsity, headline.reading, headline.metric, ""), {})


def _shown(headline: Headline, values: Mapping[Unit, float]) -> str:
    measured = spread(values)
    return "" if measured is None else headline.fmt(measured.mean)


# -- a sentence per reading -------------------------------------------------------------------------------


def sentences(made: Sequence[Verdict]) -> list[str]:
    """One per reading, against the other methods (or the controls, if there is nothing else).

    The last one says how sure that is, once: a single run gives directions, and several give leads.
    """
    chosen = [verdict for verdict in made if not verdict.control] or list(made)
    sure = any(ahead.measured.ci95 is not None for verdict in chosen for ahead in verdict.ahead)
    by_reading: dict[str, list[Verdict]] = {}
    for verdict in chosen:
        by_reading.setdefault(verdict.headline.reading, []).append(verdict)
    said = [_sentence(reading, mine, sure) for reading, mine in by_reading.items()]
    return [*said, _SURE if sure else _UNSURE]


def _sentence(reading: str, made: Sequence[Verdict], sure: bool) -> str:
    names = list(dict.fromkeys(_inside(verdict.headline.name) for verdict in made))
    alike: dict[tuple[int, int, int], list[str]] = {}
    for rival in dict.fromkeys(verdict.theirs for verdict in made):
        ahead = [each for verdict in made if verdict.theirs == rival for each in verdict.ahead]
        signs = [each.sign if sure else each.sign.removeprefix("1") for each in ahead]
        alike.setdefault((signs.count("+"), signs.count("-"), len(signs)), []).append(rival)
    places = ("at", "sparsities") if len(names) == 1 else ("in", "comparisons")
    said = [_outcome(*counts, rivals, sure, places) for counts, rivals in alike.items()]
    outcomes = ", and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))
    return f"{_READINGS[reading].format(', '.join(names))}, {made[0].ours} {outcomes}."


def _outcome(up: int, down: int, of: int, rivals: Sequence[str], sure: bool, places: tuple[str, str]) -> str:
    """What the subject does to rivals, as a verb with its object."""
    leads, trails = ("leads", "trails") if sure else ("is above", "is below")
    them = " and ".join(filter(None, [", ".join(rivals[:-1]), rivals[-1]]))
    at, what = places
    if not up and not down:
        return f"shows no {'certain ' if sure else ''}difference from {them}"
    if up and down:
        return f"{leads} {them} {at} {up} but {trails} {at} {down} of {of} {what}"
    verb, count = (leads, up) if up else (trails, down)
    if of == 1:
        return f"{verb} {them}"
    return f"{verb} {them} " + ("throughout" if count == of else f"{at} {count} of {of} {what}")


def _inside(name: str) -> str:
    """A name in the middle of a sentence: ``accuracy``, but ``AUC``."""
    return name if name[:2].isupper() else name[0].lower() + name[1:]


# -- every difference -------------------------------------------------------------------------------------


def standings(made: Sequence[Verdict], over: str) -> Standings:
    """A row per rival, and below it the paper's differences; a column per metric and sparsity."""
    columns: dict[Headline, list[float]] = {}
    for verdict in made:
        levels = {*columns.get(verdict.headline, ()), *(ahead.sparsity for ahead in verdict.ahead)}
        columns[verdict.headline] = sorted(levels)
    ordered = [(headline, s) for headline, levels in columns.items() for s in levels]
    parts = []
    for name, control in (("Other methods", False), ("Controls", True)):
        rows: list[tuple[str, list[Cell]]] = []
        for rival in dict.fromkeys(verdict.theirs for verdict in made if verdict.control == control):
            cells = {(v.headline, a.sparsity): (v, a) for v in made if v.theirs == rival for a in v.ahead}
            rows.append((rival, [_cell(*cells[key]) if key in cells else Cell() for key in ordered]))
            printed = [_printed(*cells[key]) if key in cells else Cell() for key in ordered]
            if any(cell.text for cell in printed):
                rows.append(("in the paper", printed))
        if rows:
            parts.append((name, rows))
    heads = [(headline.title, [f"{s:.0%}" for s in levels]) for headline, levels in columns.items()]
    return Standings(_title(made, over), heads, parts, _MARKS.format(over=over))


def _title(made: Sequence[Verdict], over: str) -> str:
    counts = sorted({ahead.measured.count for verdict in made for ahead in verdict.ahead})
    title = f"How far {made[0].ours} is ahead of each"
    if counts == [1]:
        return f"{title}, one {over.removesuffix('s')}"
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{title}: means over {number} {over}, ± half the 95% interval"


def _cell(verdict: Verdict, ahead: Ahead) -> Cell:
    signed, fmt = verdict.headline.signed, verdict.headline.fmt
    half = "" if ahead.measured.ci95 is None else f"± {fmt(ahead.measured.ci95)}"
    return Cell(signed(ahead.measured.mean), _mark(ahead), half)


def _printed(verdict: Verdict, ahead: Ahead) -> Cell:
    return Cell() if ahead.printed is None else Cell(verdict.headline.signed(ahead.printed), "printed")


def _mark(ahead: Ahead) -> Mark:
    marks: dict[str, Mark] = {"+": "up", "-": "down"}
    return marks.get(ahead.sign, "unsure")
