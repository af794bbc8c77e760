"""The chapter on routing: what `tombola route` measured and kept in a file beside the runs."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.lab.report import kept
from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.figures import Axis, Figure, Series, Style, percent, xy
from tombola.lab.report.findings import Findings
from tombola.lab.report.heatmap import heat
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import share
from tombola.objectives.metrics import MetricInfo, ordered

FILE = "routing.json"
_REFERENCES = {
    "best_fixed": "best fixed ticket",
    "random": "a random ticket",
    "dense": "dense network",
    "imp": "single mask (imp)",
    "union_size_imp": "single mask of the union's size",
}


def chapter(found: Findings) -> list[Block]:
    """Nothing where no such file is there, or where it is of other runs."""
    rows = kept.rows(found, FILE)
    plain = [row for row in rows if "window" not in row and "context" not in row]
    who = dict.fromkeys(row["router"] for row in plain)
    routers = [name for name in who if not name.startswith(("oracle", *_REFERENCES))]
    quality = next((info for info in ordered(row["metric"] for row in plain) if info.primary), None)
    if not routers or quality is None:
        return []
    named = [{**row, "router": _REFERENCES.get(row["router"], row["router"])} for row in plain]
    metrics = [quality.name, "gap_closed", "routing_accuracy", "confidence"]
    table = kept.table(
        "Who chooses the ticket", named, {"who answers": "router", "removed": "sparsity"}, metrics
    )
    drawn = [*_gaps(plain, routers), *_confusions(rows, routers[0])]
    return [Words(_words(plain, routers[0], quality)), Figures(drawn), Tabled(table)]


def _words(rows: Sequence[Row], router: str, quality: MetricInfo) -> list[str]:
    sparsity = kept.middle(rows)
    at = {(row["router"], row["metric"]): row["mean"] for row in rows if row["sparsity"] == sparsity}
    names = {"oracle": "the right ticket, given", router: f"the {router} router", **_REFERENCES}
    by_who = [
        f"{name} {quality.write(at[who, quality.name])}"
        for who, name in names.items()
        if (who, quality.name) in at
    ]
    lines = [
        f"Where nobody names the ticket, at {sparsity:.0%} removed, {quality.inside}: {', '.join(by_who)}."
    ]
    if (router, "routing_accuracy") in at:
        right = at[router, "routing_accuracy"]
        lines.append(f"The {router} router finds the right ticket for {right:.1%} of the samples.")
    if (router, "gap_closed") in at:
        gap = share(at[router, "gap_closed"])
        lines.append(f"It closes {gap} of the gap between the best fixed ticket (0) and the oracle (1).")
    return lines


def _gaps(rows: Sequence[Row], routers: Sequence[str]) -> list[Figure]:
    """Gap closed over sparsity, a line per router; references as hollow ones."""
    shown = [*routers, *(name for name in _REFERENCES if name != "best_fixed")]
    series = [
        Series(
            _REFERENCES.get(name, name),
            Style(i, hollow=name in _REFERENCES),
            kept.points(kept.where(rows, router=name, metric="gap_closed")),
        )
        for i, name in enumerate(shown)
    ]
    series = [each for each in series if each.points]
    levels = sorted({row["sparsity"] for row in rows})
    x, y = Axis("share of weights removed", percent, levels), Axis("gap closed", share)
    title = "Gap between the best fixed ticket (0) and the oracle (1)"
    return [xy(title, series, x, y)] if series else []


def _confusions(rows: Sequence[Row], router: str) -> list[Figure]:
    """Which context goes to which ticket by the first router, which is the default one, per sparsity."""
    figures = []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        mine = [row for row in kept.where(rows, sparsity=sparsity, router=router) if "context" in row]
        if mine:
            names = list(dict.fromkeys(row["ticket"] for row in mine))
            at = {(row["context"], row["ticket"]): row["mean"] for row in mine}
            matrix = [[at[a, b] for b in names] for a in names]
            title = f"Context (down) to ticket (across): {router}, {sparsity:.0%} removed"
            figures.append(heat(title, names, names, matrix, (0.0, 1.0), share))
    return figures
