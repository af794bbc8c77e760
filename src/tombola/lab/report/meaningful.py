"""The chapter on meaning: what `tombola semantics` found and kept in a file beside the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tombola.lab.report.alignments import SOURCES
from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.figures import Axis, Series, Style, percent, xy
from tombola.lab.report.findings import Findings
from tombola.lab.report.heatmap import heat
from tombola.lab.report.kept import contents
from tombola.lab.report.tables import Table, share
from tombola.masks.similarity import DEPTHS

FILE = "semantics.json"


def chapter(found: Findings) -> list[Block]:
    """Nothing where no such file is there, or where it is of other runs."""
    content = _content(found)
    if content is None:
        return []
    rows = [row for row in content["rows"] if row["rho"] is not None]
    if not rows:
        return [Words(["No rank correlation is defined: all pairs are equally alike."], missing=True)]
    tickets = content["names"]["tickets"]
    lines = enumerate(content["names"]["matrix"])
    matrix = [[math.nan if i == j else v for j, v in enumerate(line)] for i, line in lines]
    values = [v for line in matrix for v in line if math.isfinite(v)]
    names = heat(content["what"], tickets, tickets, matrix, (min(values), max(values)), share)
    charts = [_curves(rows), names]
    return [Words(_words(content, rows)), Figures(charts), *_tables(content, rows)]


def _content(found: Findings) -> dict[str, Any] | None:
    for content in contents(found, FILE):
        if isinstance(content, dict) and (content.get("experiment"), content.get("preset")) == found.head:
            return content
    return None


def _words(content: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    pairs, names = rows[0]["pairs"], rows[0]["names"]
    own = [row for row in rows if row["source"] == "own"]
    small = sum(row["p"] <= 0.05 for row in own)
    chances = ", ".join(f"{share:.0%} at {rho}" for rho, share in content["power"].items())
    return [
        f"Spearman's rank correlation between the similarity of masks ({content['measure']}) and "
        f"{content['what']}, over {pairs} pairs of {names} names. p is that of a permutation of the names "
        f"(Mantel); of {len(own)} tests on the tickets {small} are at .05 or below, uncorrected: some are by "
        "chance.",
        f"What a test of this size finds, by the true correlation: {chances}.",
        "Twins should show the same, a shuffled partition nothing.",
    ]


def _curves(rows: Sequence[dict[str, Any]]) -> Any:
    series = []
    for i, depth in enumerate(("all", *DEPTHS)):
        mine = [row for row in rows if (row["source"], row["depth"]) == ("own", depth)]
        points = [(row["removed"], row["rho"], None) for row in mine]
        series.append(Series(f"the tickets, {depth} layers", Style(i), points, marked=len(points) <= 30))
    for i, source in enumerate([name for name in SOURCES if name != "own"]):
        mine = [row for row in rows if (row["source"], row["depth"]) == (source, "all")]
        points = [(row["removed"], row["rho"], None) for row in mine]
        name = SOURCES[source][1].partition(":")[0] + ", all layers"
        series.append(Series(name, Style(i + 4, hollow=True), points, marked=len(points) <= 30))
    shown = [each for each in series if each.points]
    x, y = Axis("share of weights removed", percent), Axis("Spearman's rho", lambda v: f"{v:+.2f}")
    return xy("Masks against names", shown, x, y)


def _tables(content: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[Block]:
    header = ["masks", "layers", "removed", "seeds", "mean similarity", "rho", "95%", "p"]
    body = [
        [
            *(SOURCES[row["source"]][1].partition(":")[0], row["depth"], f"{row['removed']:.1%}"),
            *(str(row["seeds"]), share(row["mean"]), f"{row['rho']:+.2f}"),
            *(f"{row['low']:+.2f} to {row['high']:+.2f}", f"{row['p']:.4f}"),
        ]
        for row in rows
    ]
    blocks: list[Block] = [Tabled(Table("Masks against names, all states", header, body))]
    groups = [
        [
            *(SOURCES[row["source"]][1].partition(":")[0], row["depth"], f"{row['removed']:.1%}"),
            *(f"{row['ami']:+.2f}", f"{row['chance95']:+.2f}", f"{row['p']:.3f}"),
        ]
        for row in content["groups"]
    ]
    if groups:
        header = ["masks", "layers", "removed", "AMI", "95% of chance", "p"]
        title = f"Clusters of tickets against {content['groups'][0]['what']}"
        blocks.append(Tabled(Table(title, header, groups)))
    return blocks
