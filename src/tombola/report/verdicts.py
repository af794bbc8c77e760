"""Who is ahead, by how much, and how sure that is: sentences computed from differences within a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tombola.methods import METHODS
from tombola.report.findings import Findings, Spread, spread
from tombola.report.rows import Unit
from tombola.report.tables import LIKE, Format, Table, decibel, share, signed_decibel, signed_share

Paper = Mapping[tuple[str, float], Mapping[str, float]]


@dataclass(frozen=True)
class Headline:
    """A metric that a comparison is decided by, in one reading; more is better."""

    reading: str
    metric: str
    name: str
    where: str
    fmt: Format
    signed: Format

    @property
    def title(self) -> str:
        """For captions."""
        return f"{self.name}, {self.where}" if self.where else self.name


HEADLINES = (
    Headline("paper", "balanced_accuracy", "Balanced accuracy", "the paper's reading", share, signed_share),
    Headline(LIKE, "auc", "AUC", "like for like", share, signed_share),
    Headline(LIKE, "accuracy", "Accuracy", "like for like", share, signed_share),
    Headline("", "psnr", "PSNR in dB", "", decibel, signed_decibel),
    Headline("", "psnr_region", "PSNR in dB, mean of regions", "", decibel, signed_decibel),
    Headline("", "si_snri", "SI-SNRi in dB", "", decibel, signed_decibel),
)


@dataclass(frozen=True)
class Ahead:
    """What the subject is ahead of a rival at one sparsity, and in the paper."""

    sparsity: float
    measured: Spread
    printed: float | None = None

    @property
    def sign(self) -> str:
        """``+`` or ``-`` if the interval leaves out zero, else ``0``; ``1+`` or ``1-`` of one value."""
        sign = "+" if self.measured.mean > 0 else "-"
        if self.measured.ci95 is None:
            return f"1{sign}" if self.measured.mean else "0"
        return sign if abs(self.measured.mean) > self.measured.ci95 else "0"


@dataclass(frozen=True)
class Verdict:
    """The subject against one rival by one headline metric, over the sparsities."""

    headline: Headline
    ours: str
    theirs: str
    ahead: Sequence[Ahead]

    @property
    def control(self) -> bool:
        """Whether the rival is there to be compared with only."""
        return METHODS[self.theirs].control

    def words(self) -> str:
        """One sentence; it claims nothing that one value or an interval over zero cannot carry."""
        return f"{self._winner()}: {self._figures()}."

    def _winner(self) -> str:
        signs = [ahead.sign for ahead in self.ahead]
        kinds, over = set(signs) - {"0"}, f"between {self.ours} and {self.theirs}"
        if not kinds:
            return f"no difference {over} is shown"
        if len(kinds) > 1:
            return f"what is {over} depends on the sparsity"
        sign = kinds.pop()
        first, second = (self.ours, self.theirs) if sign.endswith("+") else (self.theirs, self.ours)
        if sign.startswith("1"):
            return f"{first} is above {second} in the one run of both, a direction and no claim"
        if "0" in signs:
            sure = f"{len(signs) - signs.count('0')} of {len(signs)} sparsities"
            return f"{first} leads {second} at {sure}, and elsewhere no difference is shown"
        return f"{first} leads {second}" + (" at every sparsity" if len(signs) > 1 else "")

    def _figures(self) -> str:
        """Differences at the sparsities, with intervals; and the paper's."""
        signed = self.headline.signed
        found = [f"{a.measured.mean_and_interval(signed)} at {a.sparsity:.0%}" for a in self.ahead]
        printed = [f"{signed(a.printed)} at {a.sparsity:.0%}" for a in self.ahead if a.printed is not None]
        parts = [f"{self.ours} minus {self.theirs} is {', '.join(found)}"]
        return "; ".join(parts + ([f"in the paper {', '.join(printed)}"] if printed else []))


def headlines(found: Findings) -> list[Headline]:
    """Those that were measured."""
    return [h for h in HEADLINES if any(k[2:] == (h.reading, h.metric, "") for k in found.values)]


def verdicts(found: Findings, paper: Paper) -> list[Verdict]:
    """The subject against every other method, by every headline metric."""
    made = [
        _verdict(found, headline, found.subject, rival, paper)
        for headline in headlines(found)
        for rival in found.methods
        if rival != found.subject
    ]
    return [verdict for verdict in made if verdict is not None]


def difference(ours: Mapping[Unit, float], theirs: Mapping[Unit, float]) -> Spread | None:
    """What one is ahead of the other within the items and seeds that both have."""
    return spread({unit: ours[unit] - theirs[unit] for unit in ours if unit in theirs})


def _verdict(found: Findings, headline: Headline, ours: str, theirs: str, paper: Paper) -> Verdict | None:
    made = []
    for sparsity in [s for method, s in found.outcomes if method == ours]:
        level = sparsity if (theirs, sparsity) in found.outcomes else 0.0  # a dense network is at 0
        keys = ((m, s, headline.reading, headline.metric, "") for m, s in ((ours, sparsity), (theirs, level)))
        measured = difference(*(found.values.get(key, {}) for key in keys))
        if measured is not None:
            mine, other = (paper.get(k, {}).get(headline.metric) for k in ((ours, sparsity), (theirs, level)))
            known = mine is not None and other is not None and headline.reading != LIKE
            made.append(Ahead(sparsity, measured, mine - other if known else None))  # type: ignore[operator]
    return Verdict(headline, ours, theirs, made) if made else None


def sentences(made: Sequence[Verdict]) -> dict[str, list[str]]:
    """By headline metric, a sentence for each rival."""
    by_title: dict[str, list[str]] = {}
    for verdict in made:
        by_title.setdefault(verdict.headline.title, []).append(verdict.words())
    return by_title


def differences(made: Sequence[Verdict], title: str) -> Table:
    """Every difference with its interval, and the paper's beside it."""
    printed = any(ahead.printed is not None for verdict in made for ahead in verdict.ahead)
    header = [
        "of",
        "measure",
        "sparsity",
        "ahead by",
        "95% interval",
        "n",
        *(["in the paper"] if printed else []),
    ]
    body = []
    for verdict in made:
        signed = verdict.headline.signed
        for ahead in verdict.ahead:
            mean, half = ahead.measured.mean, ahead.measured.ci95
            wide = "" if half is None else f"{signed(mean - half)} to {signed(mean + half)}"
            line = [verdict.theirs, verdict.headline.title, f"{ahead.sparsity:.0%}", signed(mean), wide]
            line += [str(ahead.measured.count)]
            line += [signed(ahead.printed) if ahead.printed is not None else ""] if printed else []
            body.append(line)
    return Table(title, header, body)
