"""The chapter on what `tombola advise` said beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tombola.lab.report.blocks import Block, Figures, Tabled, Words
from tombola.lab.report.findings import Findings
from tombola.lab.report.heat import heat
from tombola.lab.report.kept import contents
from tombola.lab.report.tables import Table, whole
from tombola.objectives.metrics import decibel, metric_info

_RUNS = {"long": "longer", "short": "first, shorter", "others": "other sparsities"}


def chapter(found: Findings) -> list[Block]:
    """Answer, reasons, the affinity of all pairs, and what each arm reached; nothing without an advice."""
    kept = [each for each in contents(found, "advice/advice.json") if isinstance(each, dict)]
    if not kept or not {"answer", "reasons", "names", "matrix", "arms"} <= set(kept[0]):
        return []
    advice: dict[str, Any] = kept[0]
    names, matrix = advice["names"], [[float("nan") if v is None else v for v in r] for r in advice["matrix"]]
    title = "Affinity of the contexts: 1 where they want the same of the weights, 0 where unrelated things"
    return [
        Words([f"Beforehand: {advice['answer']}."], lead=True),
        Words(advice["reasons"]),
        Figures([heat(title, names, names, matrix, (0.0, 1.0), decibel)]),
        Tabled(_arms(advice)),
    ]


def _arms(advice: Mapping[str, Any]) -> Table:
    info = metric_info(advice["arms"][0]["metric"])
    header = ["arm", "method", "run", "sparsity", info.inside, "numbers per answer", "stored"]
    body = [
        [
            *(arm["arm"], arm["method"], _RUNS[arm["run"]], f"{arm['sparsity']:g}"),
            *(info.write(arm["mean"]), whole(arm["per_ticket"]), whole(arm["stored"])),
        ]
        for arm in advice["arms"]
    ]
    return Table("Short runs, judged on validation data", header, body)
