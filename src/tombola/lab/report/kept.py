"""What `tombola route` and `tombola calibrate` kept for the report (``--keep``), and the chapters on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.figures import Axis, Figure, Point, Series, Style, percent, xy
from tombola.lab.report.findings import Findings
from tombola.lab.report.heat import heat
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, by_outcome, mean_and_half, share
from tombola.objectives.metrics import metric_info, ordered

_REFERENCES = {
    "best_fixed": "best fixed ticket",
    "random": "a random ticket",
    "dense": "dense network",
    "imp": "single mask (imp)",
    "union_size_imp": "single mask of the union's size",
}
_ENDS = (0.0, 1.04)  # room for what is written under the right end
_ERRORS = ("ece", "brier", "set_size")


def contents(found: Findings, file: str) -> list[Any]:
    """The JSON files of this name in and above the runs, the nearest first; others are left out."""
    places = [folder for ran in found.runs for folder in (ran.path, *ran.path.resolve().parents[:2])]
    read = []
    for place in dict.fromkeys(places):
        try:
            read.append(json.loads((place / file).read_text()))
        except (OSError, ValueError):
            continue
    return read


def _rows(found: Findings, file: str) -> list[Row]:
    """The rows of this comparison in the first of these files that has some; each has a ``mean``."""
    for content in contents(found, file):
        rows = content if isinstance(content, list) else []
        usable = [row for row in rows if isinstance(row, dict) and "mean" in row]
        if mine := [row for row in usable if (row.get("experiment"), row.get("preset")) == found.head]:
            return mine
    return []


def _middle(rows: Sequence[Row]) -> float:
    """The sparsity that is nearest to one half."""
    return float(min({row["sparsity"] for row in rows}, key=lambda s: (abs(s - 0.5), s)))


def _where(rows: Iterable[Row], **fields: Any) -> list[Row]:
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def points(rows: Iterable[Row], x: str = "sparsity") -> list[Point]:
    """Means and half intervals over a field, the least first."""
    return [(row[x], row["mean"], row["ci95"]) for row in sorted(rows, key=lambda row: row[x])]


def _table(title: str, rows: Sequence[Row], keys: dict[str, str], metrics: Sequence[str]) -> Tabled:
    """A line per outcome: its fields by their headings, then its metrics."""
    infos = [metric_info(metric) for metric in metrics]
    body = [
        [f"{value:.0%}" if isinstance(value, float) else str(value) for value in values]
        + [mean_and_half(cell.get(info.name), info.write) for info in infos]
        for values, cell in by_outcome(rows, *keys.values()).items()
    ]
    return Tabled(Table(title, [*keys, *(info.column for info in infos)], body))


# -- routing -------------------------------------------------------------------------------------------------


def routing(found: Findings) -> list[Block]:
    """Who answers where no context is given; nothing where no rows of these runs were kept."""
    rows = _rows(found, "routing.json")
    plain = [row for row in rows if "window" not in row and "context" not in row]
    who = dict.fromkeys(row["router"] for row in plain)
    routers = [name for name in who if not name.startswith(("oracle", *_REFERENCES))]
    quality = next((info for info in ordered(row["metric"] for row in plain) if info.primary), None)
    if not routers or quality is None:
        return []
    router, sparsity = routers[0], _middle(plain)
    at = {(row["router"], row["metric"]): row["mean"] for row in plain if row["sparsity"] == sparsity}
    names = {"oracle": "the right ticket, given", router: f"the {router} router", **_REFERENCES}
    scores = ((name, at.get((who, quality.name))) for who, name in names.items())
    by_who = ", ".join(f"{name} {quality.write(score)}" for name, score in scores if score is not None)
    lines = [f"Where nobody names the ticket, at {sparsity:.0%} removed, {quality.inside}: {by_who}."]
    if (right := at.get((router, "routing_accuracy"))) is not None:
        lines.append(f"The {router} router finds the right ticket for {right:.1%} of the samples.")
    if (gap := at.get((router, "gap_closed"))) is not None:
        lines.append(
            f"It closes {share(gap)} of the gap between the best fixed ticket (0) and the oracle (1)."
        )
    named = [{**row, "router": _REFERENCES.get(row["router"], row["router"])} for row in plain]
    keys, metrics = (
        {"who answers": "router", "removed": "sparsity"},
        ("gap_closed", "routing_accuracy", "confidence"),
    )
    table = _table("Who chooses the ticket", named, keys, [quality.name, *metrics])
    return [Words(lines), Figures([*_gaps(plain, routers), *_confusions(rows, router)]), table]


def _gaps(rows: Sequence[Row], routers: Sequence[str]) -> list[Figure]:
    """Gap closed over sparsity, a line per router; references as hollow ones."""
    series = []
    for i, name in enumerate([*routers, *(name for name in _REFERENCES if name != "best_fixed")]):
        style = Style(i, hollow=name in _REFERENCES)
        mine = points(_where(rows, router=name, metric="gap_closed"))
        series += [Series(_REFERENCES.get(name, name), style, mine)] if mine else []
    levels = sorted({row["sparsity"] for row in rows})
    x, y = Axis("share of weights removed", percent, levels), Axis("gap closed", share)
    title = "Gap between the best fixed ticket (0) and the oracle (1)"
    return [xy(title, series, x, y)] if series else []


def _confusions(rows: Sequence[Row], router: str) -> list[Figure]:
    """Which context goes to which ticket by the first router, which is the default one, per sparsity."""
    figures = []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        mine = [row for row in _where(rows, sparsity=sparsity, router=router) if "context" in row]
        if mine:
            names = list(dict.fromkeys(row["ticket"] for row in mine))
            at = {(row["context"], row["ticket"]): row["mean"] for row in mine}
            matrix = [[at[a, b] for b in names] for a in names]
            title = f"Context (down) to ticket (across): {router}, {sparsity:.0%} removed"
            figures.append(heat(title, names, names, matrix, (0.0, 1.0), share))
    return figures


# -- precision and probability -------------------------------------------------------------------------------


def calibration(found: Findings) -> list[Block]:
    """What the probabilities are worth; nothing where no rows of these runs were kept."""
    rows = _rows(found, "precision.json")
    if not rows:
        return []
    sparsity = _middle(rows)
    here = _where(rows, sparsity=sparsity)
    lines = [f"At {sparsity:.0%} removed. Maps, thresholds and couplings come from validation data."]
    off = {row["reading"]: row["mean"] for row in _where(here, metric="ece", method=here[0]["method"])}
    plain = off.pop("plain scores", None)
    mended = [f"{name} {share(value)}" for name, value in off.items() if not name.startswith("coupled")]
    if plain is not None and mended:
        lines.append(
            f"Read at face value, probabilities of {here[0]['method']} are off by {share(plain)}; after "
            f"{', '.join(mended)}."
        )
    drawn = [*_recalls(here), *_reliability(here)]
    blocks: list[Block] = [Words(lines), *([Figures(drawn)] if drawn else [])]
    errors = [{**row, "ci95": None} for row in rows if row["metric"] in _ERRORS]
    shown = [name for name in _ERRORS if _where(errors, metric=name)]
    keys = {"method": "method", "reading": "reading", "removed": "sparsity"}
    return [*blocks, _table("Errors of probabilities", errors, keys, shown)] if errors else blocks


def _recalls(rows: Sequence[Row]) -> list[Figure]:
    """Precision at given recalls, the mean over tickets."""
    mine = _where(rows, metric="precision_at_recall")
    series = _styled(mine, lambda own: points(own, "recall"))
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
    series = _styled([row for row in rows if "bin" in row], bars, skip=right.number)
    x = Axis("probability that was given", percent, bounds=_ENDS)
    y = Axis("how often it was right", percent, bounds=_ENDS)
    return [xy("Reliability", [ideal, *series], x, y)] if series else []


def _styled(
    rows: Sequence[Row], draw: Callable[[Sequence[Row]], list[Point]], skip: int = -1
) -> list[Series]:
    """A series per method and reading; that of the first method is full, those beside it hollow."""
    made = []
    for i, (method, reading) in enumerate(dict.fromkeys((row["method"], row["reading"]) for row in rows)):
        number = i if skip < 0 or i < skip else i + 1
        style = Style(number, hollow=method != rows[0]["method"])
        made.append(Series(f"{method}, {reading}", style, draw(_where(rows, method=method, reading=reading))))
    return made
