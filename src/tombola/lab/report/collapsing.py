"""The chapter on collapse: alarms, and what the search measured after each round."""

from __future__ import annotations

from tombola.lab.report.blocks import Block, Tabled, Words
from tombola.lab.report.findings import Findings
from tombola.lab.report.tables import Table, share

_WATCHED = (
    "After every round the search records what needs no label: how alike tickets are, and how many weights "
    "the smallest layer keeps. An alarm is no proof: docs/results/collapse.md says how late it was."
)


def chapter(found: Findings) -> list[Block]:
    """Nothing where no search was watched (runs that are older than the alarm)."""
    labels = {ran.unit: ran.label for ran in found.runs}
    said = [f"{labels[unit]}: {words}." for unit, alarms in found.alarms.items() for words in alarms]
    if not found.watched and not said:
        return []
    runs = len(found.watched)
    said = said or [f"No alarm in {runs} watched {'run' if runs == 1 else 'runs'}."]
    body = []
    for unit, history in found.watched.items():
        for row in history:
            kappa = "" if row.get("kappa") is None else share(row["kappa"])
            body.append([labels[unit], f"{1 - row['density']:.1%}", kappa, str(row.get("fewest", ""))])
    header = ["run", "removed", "mean kappa", "weights in the smallest layer"]
    measured = Tabled(Table("Likeness and the smallest layer, round by round", header, body))
    return [Words([_WATCHED]), Words(said, lead=True), measured]
