"""The chapter on precision and probability: what `tombola calibrate` measured and kept beside the runs."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.lab.report import kept
from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.figures import Axis, Figure, Point, Series, Style, percent, xy
from tombola.lab.report.findings import Findings
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import share

FILE = "precision.json"
_ENDS = (0.0, 1.04)  # room for what is written under the right end
_ERRORS = ("ece", "brier", "set_size")


def chapter(found: Findings) -> list[Block]:
    """Nothing where no such file is there, or where it is of other runs."""
    rows = kept.rows(found, FILE)
    if not rows:
        return []
    sparsity = kept.middle(rows)
    here = kept.where(rows, sparsity=sparsity)
    drawn = [*_recalls(here), *_reliability(here)]
    blocks: list[Block] = [Words(_words(here, sparsity)), *([Figures(drawn)] if drawn else [])]
    errors = [row for row in rows if row["metric"] in _ERRORS]
    shown = [name for name in _ERRORS if kept.where(errors, metric=name)]
    keys = {"method": "method", "reading": "reading", "removed": "sparsity"}
    table = kept.table("Errors of probabilities", errors, keys, shown, half=False)
    return [*blocks, Tabled(table)] if errors else blocks


def _words(rows: Sequence[Row], sparsity: float) -> list[str]:
    method = rows[0]["method"]
    found = {row["reading"]: row["mean"] for row in kept.where(rows, metric="ece", method=method)}
    lines = [f"At {sparsity:.0%} removed. Maps, thresholds and couplings come from validation data."]
    plain = found.pop("plain scores", None)
    mended = {name: value for name, value in found.items() if not name.startswith("coupled")}
    if plain is not None and mended:
        after = ", ".join(f"{name} {share(value)}" for name, value in mended.items())
        lines.append(
            f"Read at face value, probabilities of {method} are off by {share(plain)}; after {after}."
        )
    return lines


def _recalls(rows: Sequence[Row]) -> list[Figure]:
    """Precision at given recalls, the mean over tickets."""
    mine = kept.where(rows, metric="precision_at_recall")
    series = kept.styled(mine, lambda own: kept.points(own, "recall"))
    x, y = Axis("recall", percent, bounds=_ENDS), Axis("precision, mean over tickets", share, bounds=_ENDS)
    return [xy("Precision over recall", series, x, y)] if series else []


def _reliability(rows: Sequence[Row]) -> list[Figure]:
    """How often yes was right, over the probability that it was given."""

    def bars(own: Sequence[Row]) -> list[Point]:
        at = {(row["bin"], row["metric"]): row for row in own}
        bins = sorted(b for b, metric in at if metric == "predicted" and (b, "observed") in at)
        pairs = [(at[b, "predicted"], at[b, "observed"]) for b in bins]
        return [(predicted["mean"], observed["mean"], observed["ci95"]) for predicted, observed in pairs]

    right = Style(3, hollow=True)
    ideal = Series("right as often as said", right, [(0, 0, None), (1, 1, None)], marked=False)
    series = kept.styled([row for row in rows if "bin" in row], bars, skip=right.number)
    x = Axis("probability that was given", percent, bounds=_ENDS)
    y = Axis("how often it was right", percent, bounds=_ENDS)
    return [xy("Reliability", [ideal, *series], x, y)] if series else []
