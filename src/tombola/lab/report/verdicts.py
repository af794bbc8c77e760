"""The answer first: who is ahead, by how much, how sure that is, in figures, sentences and one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tombola.lab.report.findings import Arm, Findings
from tombola.lab.report.rows import Spread, difference, spread
from tombola.lab.report.tables import Paper, Table, whole
from tombola.methods.table import METHODS
from tombola.objectives.metrics import LIKE_FOR_LIKE, METRICS, READINGS, MetricInfo

_INTRODUCED = {"paper": "In the paper's reading ({})", LIKE_FOR_LIKE: "Like for like ({})", "": "By {}"}
_SURE = "“Leads” and “trails” are said only where the 95% interval of a difference leaves out zero."
_UNSURE = "One seed: a direction, not a claim."
MARKS = (
    "▲ ahead and ▼ behind: the 95% interval leaves out zero. No mark: it does not, or there is one run only. "
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

    def printed(self, paper: Paper, arm: Arm) -> float | None:
        """What the paper prints of an outcome; it has no like-for-like reading."""
        return None if self.reading == LIKE_FOR_LIKE else paper.get(arm, {}).get(self.info.name)


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

    def written(self, info: MetricInfo) -> str:
        """The difference with half its interval, and a mark if that leaves out zero."""
        half = "" if self.measured.ci95 is None else f" ± {info.write(self.measured.ci95)}"
        mark = {"+": "▲ ", "-": "▼ "}.get(self.sign, "")
        return f"{mark}{info.write_difference(self.measured.mean)}{half}"


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
        arms = (found.subject, sparsity), found.level(theirs, sparsity)
        values = (found.values.get((*arm, *headline.key, ""), {}) for arm in arms)
        if measured := spread(difference(info.name, *values)):
            ours, rival = (headline.printed(paper, arm) for arm in arms)
            printed = None if ours is None or rival is None else info.ahead(ours, rival)
            made.append(Ahead(sparsity, measured, printed))
    return made


def verdict(found: Findings, paper: Paper) -> list[str]:
    """The answer in words alone; none without a second method."""
    return sentences(verdicts(found, paper))


# -- a sentence per reading -------------------------------------------------------------------------------


def sentences(made: Sequence[Verdict]) -> list[str]:
    """One per reading, against the other methods (or the controls, if there is nothing else); none of none.

    The last one says how sure that is, once: a single run gives directions, and several give leads.
    """
    chosen = [verdict for verdict in made if not METHODS[verdict.theirs].control] or list(made)
    sure = any(ahead.measured.ci95 is not None for verdict in chosen for ahead in verdict.ahead)
    readings = dict.fromkeys(verdict.headline.reading for verdict in chosen)
    said = [_sentence([v for v in chosen if v.headline.reading == reading], sure) for reading in readings]
    return [*said, _SURE if sure else _UNSURE] if said else []


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


# -- in numbers -------------------------------------------------------------------------------------------


def overview(found: Findings, made: Sequence[Verdict], paper: Paper) -> Table | None:
    """Every method that is no control, at the middle sparsity of the subject.

    Of the first metric of each reading the value, the paper's, and what the subject is ahead; then what is
    stored. Where not all seeds and items have a value, it says how many.
    """
    first = list({headline.reading: headline for headline in reversed(headlines(found))}.values())[::-1]
    if not first:
        return None
    at, body = found.middle, []
    for name in found.usual() or found.methods:
        arm = found.level(name, at)
        line = {(0, "method"): name}
        for i, headline in enumerate(first):
            info = headline.info
            printed = headline.printed(paper, arm)
            ahead = [a for v in made if (v.headline, v.theirs) == (headline, name) for a in v.ahead]
            written = "".join(each.written(info) for each in ahead if each.sparsity == at)
            line[i, headline.title] = _counted(found, arm, headline)
            line[i, "in the paper"] = "" if printed is None else info.write(printed)
            line[i, f"{found.subject} is ahead by"] = written
        parts = [found.spread(arm, "", metric) for metric in ("union", "private", "dense_rest")]
        line[0, "numbers stored"] = whole(sum(part.mean for part in parts if part)) if all(parts) else ""
        body.append(line)
    shown = [key for key in body[0] if any(line[key] for line in body)]
    lines = [[line[key] for key in shown] for line in body if any(list(line.values())[1:])]
    return Table(f"At {at:.0%} removed", [name for _, name in shown], lines)


def _counted(found: Findings, arm: Arm, headline: Headline) -> str:
    """A mean, and over how many seeds and items where there are more."""
    by_unit = found.values.get((*arm, *headline.key, ""), {})
    if (measured := spread(by_unit)) is None:
        return ""
    few = f" (n = {len(by_unit)})" if len(by_unit) < len({ran.unit for ran in found.runs}) else ""
    return headline.info.write(measured.mean) + few


def differences(made: Sequence[Verdict], over: str) -> Table:
    """A row per metric and rival, controls last, and below it the paper's; a column per sparsity."""
    levels = sorted({ahead.sparsity for verdict in made for ahead in verdict.ahead})
    body = []
    for verdict in sorted(made, key=lambda v: METHODS[v.theirs].control):
        info, control = verdict.headline.info, " (control)" * METHODS[verdict.theirs].control
        measured = {ahead.sparsity: ahead.written(info) for ahead in verdict.ahead}
        known = [(each.sparsity, each.printed) for each in verdict.ahead if each.printed is not None]
        printed = {sparsity: info.write_difference(value) for sparsity, value in known}
        for name, cells in ((verdict.theirs + control, measured), ("in the paper", printed)):
            cell = [cells.get(level, "") for level in levels]
            body += [[name, verdict.headline.title, *cell]] if cells else []
    return Table(_title(made, over), ["against", "by", *(f"{level:.0%}" for level in levels)], body)


def _title(made: Sequence[Verdict], over: str) -> str:
    counts = sorted({ahead.measured.count for verdict in made for ahead in verdict.ahead})
    title = f"How far {made[0].ours} is ahead of each"
    if counts == [1]:
        return f"{title}, one {over.removesuffix('s')}"
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{title}: means over {number} {over}, ± half the 95% interval"
