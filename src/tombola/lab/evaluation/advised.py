"""Is advice right? What `tombola advise` said beforehand, held against full runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tombola._utils.errors import DataError
from tombola.analysis.trials import ARMS
from tombola.lab.report.rows import REFERENCES, Row
from tombola.lab.report.tables import Table
from tombola.objectives.metrics import metric_info


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Advice that `tombola advise` has kept, from the files ``advice.json`` at or below these paths."""
    found = []
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("advice.json"))
        if not files:
            raise DataError(f"{path} holds no advice.json, which tombola advise writes")
        found += [json.loads(file.read_text()) for file in files]
    return [advice for advice in found if "experiment" in advice]  # older ones do not say of what


def right(full: Sequence[Row], advice: Iterable[Mapping[str, Any]], near: float) -> list[Row]:
    """Rows of ``method: advise``, ``metric: right``: 1 where the named method is the best of the full runs.

    Or within its interval: the difference from the best, paired by seed, is not surely below 0. ``named`` and
    ``best`` say which they are.
    """
    made = []
    for one in advice:
        mine = [row for row in full if _is_of(row, one)]
        if not mine:
            continue
        nearest = min({row["sparsity"] for row in mine}, key=lambda s: abs(s - near))
        here = [(row, row["metric"].partition("_lead")) for row in mine if row["sparsity"] == nearest]
        values = {row["method"]: row for row, (_, lead, _) in here if not lead}
        leads = {(row["method"], suffix): row for row, (_, lead, suffix) in here if lead}
        if (named := one["method"]) not in values:
            continue
        info = metric_info(values[named]["metric"])
        best = (max if info.higher_is_better else min)(values, key=lambda name: values[name]["mean"])
        right = named == best or _behind(leads, named, best) is False
        head = {"experiment": one["experiment"], "preset": one["preset"], "method": "advise"}
        head |= {"sparsity": nearest, "metric": "right", "mean": float(right), "ci95": None, "seeds": 1}
        made.append({**head, "named": named, "best": best})
    return made


def _is_of(row: Row, advice: Mapping[str, Any]) -> bool:
    """Whether a row is of an arm of the same experiment, by the metric that decides, like for like."""
    head = row["experiment"], row.get("preset", "").partition(" ")[0]
    fair = row.get("reading") != "paper" and not row.get("ticket") and row["method"] in ARMS
    metric = row["metric"].partition("_lead")[0]
    return head == (advice["experiment"], advice["preset"]) and fair and metric_info(metric).primary


def _behind(leads: Mapping[tuple[str, str], Row], method: str, best: str) -> bool | None:
    """Whether a method is surely behind the best; None where their difference was not taken."""
    for one, other, sign in ((method, best, 1), (best, method, -1)):
        suffix = REFERENCES.get(other, "none").removeprefix("lead")
        if row := leads.get((one, suffix)):
            return bool(sign * row["mean"] + (row["ci95"] or 0.0) < 0)
    return None


def table(rows: Sequence[Row]) -> list[Table]:
    """A line per experiment: what was named, what was best, whether that is right."""
    mine = [row for row in rows if row["method"] == "advise"]
    body = [[row["experiment"], row["named"], row["best"], "yes" if row["mean"] else "no"] for row in mine]
    if not body:
        return []
    title = f"Is the advice right? In {sum(row['mean'] for row in mine):.0f} of {len(mine)} experiments"
    return [Table(title, ["experiment", "named", "best in full runs", "right"], body)]
