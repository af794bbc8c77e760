"""The chapter on precision and probability: what `tombola calibrate` measured and kept beside the runs."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.lab.report import kept
from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.figures import Axis, Figure, Series, Style, percent, xy
from tombola.lab.report.findings import Findings
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, decibel, share

FILE = "precision.json"
_ENDS = (0.0, 1.04)  # room for what is written under the right end
_ERRORS = {"ece": "calibration error", "brier": "Brier score"}


def chapter(found: Findings) -> list[Block]:
    """Nothing where no such file is there, or where it is of other runs."""
    rows = kept.rows(found, FILE)
    if not rows:
        return []
    sparsity = kept.middle(rows)
    here = [row for row in rows if row["sparsity"] == sparsity]
    drawn = [each for each in (_recalls(here), _bars(here)) if each is not None]
    errors = _errors(rows)
    blocks: list[Block] = [Words(_words(here, sparsity))]
    blocks += [Figures(drawn)] if drawn else []
    return [*blocks, Tabled(errors)] if errors.body else blocks


def _keys(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Method and reading, in first-seen order."""
    return list(dict.fromkeys((row["method"], row["reading"]) for row in rows))


def _style(number: int, method: str, rows: Sequence[Row]) -> Style:
    """The method of the tickets is full, the one beside it hollow."""
    return Style(number, hollow=method != rows[0]["method"])


def _words(rows: Sequence[Row], sparsity: float) -> list[str]:
    found = {(r["method"], r["reading"]): r["mean"] for r in rows if r["metric"] == "ece"}
    method = rows[0]["method"]
    lines = [f"At {sparsity:.0%} removed. Maps, thresholds and couplings come from validation data."]
    plain = found.get((method, "plain scores"))
    others = {reading: value for (who, reading), value in found.items() if who == method}
    others.pop("plain scores", None)
    mended = {name: value for name, value in others.items() if not name.startswith("coupled")}
    if plain is not None and mended:
        after = ", ".join(f"{name} {share(value)}" for name, value in mended.items())
        lines.append(
            f"Read at face value, probabilities of {method} are off by {share(plain)}; after {after}."
        )
    return lines


def _recalls(rows: Sequence[Row]) -> Figure | None:
    """Precision at given recalls, the mean over tickets."""
    mine = [row for row in rows if row["metric"] == "precision_at_recall"]
    series = []
    for i, (method, reading) in enumerate(_keys(mine)):
        own = [row for row in mine if (row["method"], row["reading"]) == (method, reading)]
        points = [(r["recall"], r["mean"], r["ci95"]) for r in sorted(own, key=lambda r: r["recall"])]
        series.append(Series(f"{method}, {reading}", _style(i, method, rows), points))
    if not series:
        return None
    x, y = Axis("recall", percent, bounds=_ENDS), Axis("precision, mean over tickets", share, bounds=_ENDS)
    return xy("Precision over recall", series, x, y)


def _bars(rows: Sequence[Row]) -> Figure | None:
    """Reliability: how often yes was right, over the probability that it was given."""
    mine = [row for row in rows if "bin" in row]
    series = [
        Series("right as often as said", Style(3, hollow=True), [(0, 0, None), (1, 1, None)], marked=False)
    ]
    for i, (method, reading) in enumerate(_keys(mine)):
        own = [row for row in mine if (row["method"], row["reading"]) == (method, reading)]
        at = {(row["bin"], row["metric"]): row for row in own}
        bins = sorted({row["bin"] for row in own})
        points = [
            (at[b, "predicted"]["mean"], at[b, "observed"]["mean"], at[b, "observed"]["ci95"])
            for b in bins
            if (b, "predicted") in at and (b, "observed") in at
        ]
        number = i if i < 3 else i + 1  # the line of what should be has the fourth colour
        series.append(Series(f"{method}, {reading}", _style(number, method, rows), points))
    if len(series) == 1:
        return None
    x = Axis("probability that was given", percent, bounds=_ENDS)
    return xy("Reliability", series, x, Axis("how often it was right", percent, bounds=_ENDS))


def _errors(rows: Sequence[Row]) -> Table:
    shown = {m: label for m, label in _ERRORS.items() if any(row["metric"] == m for row in rows)}
    shown |= {"set_size": "answers in a set"} if any(row["metric"] == "set_size" for row in rows) else {}
    at = {
        (r["sparsity"], r["method"], r["reading"], r["metric"]): r["mean"]
        for r in rows
        if r["metric"] in shown
    }
    body = []
    for key in dict.fromkeys(each[:3] for each in at):
        values = [
            (decibel if m == "set_size" else share)(at[(*key, m)]) if (*key, m) in at else "" for m in shown
        ]
        body.append([key[1], key[2], f"{key[0]:.0%}", *values])
    return Table("Errors of probabilities", ["method", "reading", "removed", *shown.values()], body)
