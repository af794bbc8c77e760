"""The chapter on what `tombola advise` said beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tombola.lab.report.blocks import Block, Charts, Tabled, Words
from tombola.lab.report.charts import Axis, heat
from tombola.lab.report.findings import Findings
from tombola.lab.report.kept import contents
from tombola.lab.report.tables import Table, whole
from tombola.objectives.metrics import decibel, metric_info

_RUNS = {"long": "longer", "short": "first, shorter", "others": "other sparsities"}


def answer(found: Findings) -> list[str]:
    """What it said in a sentence; nothing without an advice."""
    return [f"Beforehand: {advice['answer']}." for advice in _advice(found)]


def chapter(found: Findings) -> list[Block]:
    """Reasons, the affinity of all pairs, and what each arm reached; nothing without an advice."""
    for advice in _advice(found):
        names = advice["names"]
        matrix = pd.DataFrame(advice["matrix"], names, names, dtype=float)
        title = (
            "Affinity of the contexts: 1 where they want the same of the weights, 0 where unrelated things"
        )
        drawn = heat(title, {"": matrix}, Axis("affinity", decibel), (0.0, 1.0))
        return [Words(advice["reasons"]), Charts([drawn]), Tabled(_arms(advice))]
    return []


def _advice(found: Findings) -> list[dict[str, Any]]:
    """The nearest, if there is one that is whole."""
    kept = [each for each in contents(found, "advice/advice.json") if isinstance(each, dict)]
    return [each for each in kept[:1] if {"answer", "reasons", "names", "matrix", "arms"} <= set(each)]


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
