"""The figures of docs/paper.md: ``python -m benchmarks.paper`` writes them anew.

The page is its own template. A figure is a link whose title says where it comes from, ``column=value``:
``[0.837](results/cifar10.md "preset=quick method=rtl metric=auc")`` is a row of results/cifar10.json, a value
for each sparsity. A link to the paper is what an experiment holds of its tables; ``minus=imp``: a difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from tombola.lab.experiments import EXPERIMENTS
from tombola.objectives.metrics import metric_info

PAGE = Path(__file__).parent.parent / "docs" / "paper.md"
NO_BREAK = "\N{NO-BREAK SPACE}"  # lines of a narrow column end between values
PAPER = "https://arxiv.org/abs/2601.22141"
FIGURE = re.compile(r'\[[^\]]*\]\((?P<link>\S+) "(?P<title>\w+=[^"]*)"\)')


def fill(text: str) -> str:
    """The text with all its figures as they are now."""
    return FIGURE.sub(_filled, text)


def _filled(found: re.Match[str]) -> str:
    link, title = found["link"], found["title"]
    words = dict(word.split("=", 1) for word in title.split())
    value = _printed(words) if link == PAPER else _measured(PAGE.parent / link, words)
    return f'[{value}]({link} "{title}")'


def _printed(words: Mapping[str, str]) -> str:
    """What the paper prints of a method, or by how much it is ahead of another."""
    paper, metric = EXPERIMENTS[words["experiment"]].paper, words["metric"]
    ours, theirs = (
        [figures[metric] for (method, _), figures in paper.items() if method == name]
        for name in (words["method"], words.get("minus"))
    )
    digits = max(len(f"{value:g}".partition(".")[2]) for value in ours)
    if theirs:
        return " / ".join(f"{one - other:+.{digits}f}" for one, other in zip(ours, theirs, strict=True))
    return " / ".join(f"{value:,.{digits}f}" for value in ours)


def _measured(page: Path, words: Mapping[str, str]) -> str:
    """The values of the rows of a page's twin that have the words; ``*`` stands for anything."""
    wanted = {"experiment": page.stem, "ticket": "", **words}
    show = wanted.pop("show", "mean")
    rows = [
        row
        for row in _twin(page.with_suffix(".json"))
        if all(fnmatchcase(str(row.get(name, "")), value) for name, value in wanted.items())
    ]
    if not rows or len({row.get("sparsity", row.get("removed")) for row in rows}) < len(rows):
        raise ValueError(f"{len(rows)} rows of {page.name} are {wanted}: name one for each sparsity")
    values = " / ".join(_value(row, show).replace(" ", NO_BREAK) for row in rows)
    return re.sub(r"(?<!\d)\.(?=\d)", "0.", values + _count(rows[0]))


def _value(row: Mapping[str, Any], show: str) -> str:
    if show != "mean" or "metric" not in row:
        return f"{row[show]:,.0f}" if row[show] == int(row[show]) else f"{row[show]:.3f}"
    name, lead, _ = row["metric"].partition("_lead")
    info = metric_info(name)
    mean = info.write_difference(row["mean"]) if lead else info.write(row["mean"])
    return mean + (f" ± {info.write(row['ci95'])}" if info.spread and row["ci95"] is not None else "")


def _count(row: Mapping[str, Any]) -> str:
    """Over how many seeds, and items if there are several; counts and times go without."""
    if "seeds" not in row or not metric_info(row.get("metric", "")).spread:
        return ""
    count = f"(n = {row['seeds']} × {row['items']})" if "items" in row else f"(n = {row['seeds']})"
    return " " + count.replace(" ", NO_BREAK)


@cache
def _twin(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
