"""The answer first: who is ahead, by how much, how sure that is, in figures, sentences and one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tombola.lab.report.blocks import Block, Card, Cards, Cell, Line, Standings, Words
from tombola.lab.report.findings import Findings
from tombola.lab.report.rows import Spread, Unit, difference, spread
from tombola.lab.report.tables import Paper
from tombola.methods.table import METHODS
from tombola.objectives.metrics import LIKE_FOR_LIKE, METRICS, READINGS, MetricInfo

_INTRODUCED = {"paper": "In the paper's reading ({})", LIKE_FOR_LIKE: "Like for like ({})", "": "By {}"}
_SURE = "“Leads” and “trails” are said only where the 95% interval of a difference leaves out zero."
_UNSURE = "One seed: a direction, not a claim."
_MARKS = (
    "▲ ahead and ▼ behind: the 95% interval leaves out zero. Grey: it does not, or there is one run only. "
    "Differences are taken within a seed and an item; intervals are Student's t over {over}, each for "
    "itself: among many comparisons some leave out zero by chance."
)


@dataclass(frozen=True)
class Headline:
    """A metric that a comparison is decided by, in one reading."""

    reading: str
    info: MetricInfo

    @property
    def title(self) -> str:
        """For captions."""
        where = READINGS.get(self.reading, self.reading)
        return f"{self.info.label}, {where}" if where else self.info.label

    @property
    def key(self) -> tuple[str, str]:
        """Reading and metric, as in the keys of `Findings.values`."""
        return self.reading, self.info.name


@dataclass(frozen=True)
class Ahead:
    """What the subject is ahead of a rival at one sparsity, and in the paper."""

    sparsity: float
    measured: Spread
    printed: float | None = None

    @property
    def sign(self) -> str:
        """``+`` or ``-`` if the interval leaves out zero, else ``0``; ``1+`` or ``1-`` of one value."""
        sign, half = "+" if self.measured.mean > 0 else "-", self.measured.ci95
        alone = "1" if half is None else ""
        return alone + sign if abs(self.measured.mean) > (half or 0.0) else "0"

    @property
    def mark(self) -> str:
        """How it is shown."""
        return {"+": "up", "-": "down"}.get(self.sign, "unsure")


@dataclass(frozen=True)
class Verdict:
    """The subject against one rival by one headline metric, over the sparsities."""

    headline: Headline
    ours: str
    theirs: str
    ahead: Sequence[Ahead]


def headlines(found: Findings) -> list[Headline]:
    """Those that were measured, reading after reading."""
    measured = {key[2:] for key in found.values}
    known = [Headline(r, info) for r in READINGS for info in METRICS.values() if r in info.headline]
    return [headline for headline in known if (*headline.key, "") in measured]


def verdicts(found: Findings, paper: Paper) -> list[Verdict]:
    """The subject against every other method, by every headline metric."""
    made = [
        Verdict(headline, found.subject, rival, _ahead(found, headline, rival, paper))
        for headline in headlines(found)
        for rival in found.methods
        if rival != found.subject
    ]
    return [verdict for verdict in made if verdict.ahead]


def _ahead(found: Findings, headline: Headline, theirs: str, paper: Paper) -> list[Ahead]:
    info, made = headline.info, []
    for sparsity in found.sparsities:
        level = sparsity if (theirs, sparsity) in found.outcomes else 0.0  # a dense network is at 0
        ours, rival = (found.subject, sparsity), (theirs, level)
        values = (found.values.get((*outcome, *headline.key, ""), {}) for outcome in (ours, rival))
        if measured := spread(difference(info.name, *values)):
            mine, other = (paper.get(outcome, {}).get(info.name) for outcome in (ours, rival))
            known = mine is not None and other is not None and headline.reading != LIKE_FOR_LIKE
            made.append(Ahead(sparsity, measured, info.ahead(mine, other) if known else None))  # type: ignore[arg-type]
    return made


def answer(found: Findings, paper: Paper) -> list[Block]:
    """What a reader came for: headline figures, a sentence per reading, and every difference in one table."""
    made = verdicts(found, paper)
    shown = cards(found, made, paper)
    blocks: list[Block] = [Cards(found.subject, shown)] if shown else []
    if not made:
        return [*blocks, Words(["There is no second method to compare with."])]
    over = "items" if found.items > 1 else "seeds"
    return [*blocks, Words(sentences(made), lead=True), standings(made, over)]


def verdict(found: Findings, paper: Paper) -> list[str]:
    """The answer in words alone; none without a second method."""
    made = verdicts(found, paper)
    return sentences(made) if made else []


# -- headline figures -------------------------------------------------------------------------------------


def cards(found: Findings, made: Sequence[Verdict], paper: Paper) -> list[Card]:
    """A card per sparsity of the subject: the first metric of every reading."""
    first = {headline.reading: headline for headline in reversed(headlines(found))}
    usual = [name for name in found.methods if name != found.subject and not METHODS[name].control]
    rival = "imp" if "imp" in usual else next(iter(usual), "")
    against = {verdict.headline: verdict for verdict in made if verdict.theirs == rival}
    shown = []
    for s in found.sparsities:
        lines = [_line(found, h, s, against.get(h), paper) for h in headlines(found) if h in first.values()]
        if known := [line for line in lines if line is not None]:
            shown.append(Card(f"{s:.0%} removed", known))
    return shown


def _line(
    found: Findings, headline: Headline, s: float, against: Verdict | None, paper: Paper
) -> Line | None:
    """The value; beside it the paper's figure, and the rival unless the reading is the paper's.

    Where the rival has not all runs, both values are of those that both have, as their difference is.
    """

    def values(method: str, sparsity: float) -> Mapping[Unit, float]:
        return found.values.get((method, sparsity, *headline.key, ""), {})

    def mean(by_unit: Mapping[Unit, float]) -> str:
        measured = spread(by_unit)
        return headline.info.write(measured.mean) if measured else ""

    ours = values(found.subject, s)
    if not ours:
        return None
    like = headline.reading == LIKE_FOR_LIKE
    printed = None if like else paper.get((found.subject, s), {}).get(headline.info.name)
    beside = [] if printed is None else [("the paper", headline.info.write(printed))]
    ahead = next((a for a in against.ahead if a.sparsity == s), None) if against else None
    if against is None or ahead is None or (printed is not None and headline.reading == "paper"):
        return Line(headline.title, mean(ours), beside)
    theirs = values(against.theirs, s) or values(against.theirs, 0.0)
    both = [unit for unit in ours if unit in theirs]
    title = headline.title + (f" ({len(both)} of {len(ours)} runs)" if len(both) < len(ours) else "")
    mine, other = (mean({unit: each[unit] for unit in both}) for each in (ours, theirs))
    between = Cell(ahead.measured.mean_and_interval(headline.info.write_difference), ahead.mark)
    return Line(title, mine, [*beside, (against.theirs, other)], between)


# -- a sentence per reading -------------------------------------------------------------------------------


def sentences(made: Sequence[Verdict]) -> list[str]:
    """One per reading, against the other methods (or the controls, if there is nothing else).

    The last one says how sure that is, once: a single run gives directions, and several give leads.
    """
    chosen = [verdict for verdict in made if not METHODS[verdict.theirs].control] or list(made)
    sure = any(ahead.measured.ci95 is not None for verdict in chosen for ahead in verdict.ahead)
    readings = dict.fromkeys(verdict.headline.reading for verdict in chosen)
    said = [_sentence([v for v in chosen if v.headline.reading == reading], sure) for reading in readings]
    return [*said, _SURE if sure else _UNSURE]


def _sentence(made: Sequence[Verdict], sure: bool) -> str:
    names = list(dict.fromkeys(verdict.headline.info.inside for verdict in made))
    alike: dict[tuple[int, int, int], list[str]] = {}
    for rival in dict.fromkeys(verdict.theirs for verdict in made):
        ahead = [each for verdict in made if verdict.theirs == rival for each in verdict.ahead]
        signs = [each.sign if sure else each.sign.removeprefix("1") for each in ahead]
        alike.setdefault((signs.count("+"), signs.count("-"), len(signs)), []).append(rival)
    places = ("at", "sparsities") if len(names) == 1 else ("in", "comparisons")
    said = [_outcome(*counts, rivals, sure, places) for counts, rivals in alike.items()]
    begin = _INTRODUCED[made[0].headline.reading]
    return f"{begin.format(', '.join(names))}, {made[0].ours} {_and(said, ', and ')}."


def _outcome(up: int, down: int, of: int, rivals: Sequence[str], sure: bool, places: tuple[str, str]) -> str:
    """What the subject does to rivals, as a verb with its object."""
    leads, trails = ("leads", "trails") if sure else ("is above", "is below")
    them, (at, what) = _and(rivals, " and "), places
    if not up and not down:
        return f"shows no {'certain ' if sure else ''}difference from {them}"
    if up and down:
        return f"{leads} {them} {at} {up} but {trails} {at} {down} of {of} {what}"
    verb, count = (leads, up) if up else (trails, down)
    if of == 1:
        return f"{verb} {them}"
    return f"{verb} {them} " + ("throughout" if count == of else f"{at} {count} of {of} {what}")


def _and(words: Sequence[str], last: str) -> str:
    return last.join(filter(None, [", ".join(words[:-1]), words[-1]]))


# -- every difference -------------------------------------------------------------------------------------


def standings(made: Sequence[Verdict], over: str) -> Standings:
    """A row per rival, and below it the paper's differences; a column per metric and sparsity."""
    columns: dict[Headline, list[float]] = {}
    for verdict in made:
        levels = {*columns.get(verdict.headline, ()), *(ahead.sparsity for ahead in verdict.ahead)}
        columns[verdict.headline] = sorted(levels)

    def line(rival: str, cell: Callable[[MetricInfo, Ahead], Cell]) -> list[Cell]:
        mine = [(v.headline, a) for v in made if v.theirs == rival for a in v.ahead]
        cells = {(headline, a.sparsity): cell(headline.info, a) for headline, a in mine}
        return [cells.get((headline, s), Cell()) for headline, levels in columns.items() for s in levels]

    parts = []
    for name, control in (("Other methods", False), ("Controls", True)):
        rows: list[tuple[str, list[Cell]]] = []
        rivals = dict.fromkeys(verdict.theirs for verdict in made)
        for rival in (name for name in rivals if METHODS[name].control == control):
            rows.append((rival, line(rival, _measured)))
            printed = line(rival, _printed)
            rows += [("in the paper", printed)] if any(cell.text for cell in printed) else []
        parts += [(name, rows)] if rows else []
    heads = [(headline.title, [f"{s:.0%}" for s in levels]) for headline, levels in columns.items()]
    return Standings(_title(made, over), heads, parts, _MARKS.format(over=over))


def _title(made: Sequence[Verdict], over: str) -> str:
    counts = sorted({ahead.measured.count for verdict in made for ahead in verdict.ahead})
    title = f"How far {made[0].ours} is ahead of each"
    if counts == [1]:
        return f"{title}, one {over.removesuffix('s')}"
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{title}: means over {number} {over}, ± half the 95% interval"


def _measured(info: MetricInfo, ahead: Ahead) -> Cell:
    half = "" if ahead.measured.ci95 is None else f"± {info.write(ahead.measured.ci95)}"
    return Cell(info.write_difference(ahead.measured.mean), ahead.mark, half)


def _printed(info: MetricInfo, ahead: Ahead) -> Cell:
    return Cell() if ahead.printed is None else Cell(info.write_difference(ahead.printed), "printed")
