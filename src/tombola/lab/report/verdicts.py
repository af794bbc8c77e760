"""Who is ahead, by how much, and how sure that is: differences within a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tombola.lab.report.findings import Findings, Spread, spread
from tombola.lab.report.rows import Unit
from tombola.lab.report.tables import LIKE, Format, decibel, share, signed_decibel, signed_share
from tombola.methods.table import METHODS

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
