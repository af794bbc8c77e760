"""The figures of docs/results/language.md: ``python -m benchmarks.language RUNS [MORE.jsonl]``.

Reads runs of `text_domains`, and lines of networks that were pruned from disk (`benchmarks.scale judged`);
writes ``docs/results/language.json`` and the tables of the page, where other presets and draws stay as they
are. Draws are seeds; differences are within one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tombola as tb
from tombola.lab.report.page import Place
from tombola.lab.report.rows import over_seeds

PAGE = Path(__file__).parents[1] / "docs" / "results" / "language.md"
NAMES = {  # of methods, as the page has them
    "rtl": "own",
    "imp": "pooled",
    "twin": "twin",
    "union_size_imp": "union_size",
    "theta0_magnitude": "magnitude",
    "dense": "dense",
}
STORED = ("union", "per_ticket", "mask_bytes", "file_bytes", "jaccard", "kappa", "kappa_twin")
Row = dict[str, Any]
MARKS = "<!-- tables -->\n", "<!-- end -->\n"


def values(runs: Path, more: Iterable[str]) -> Iterator[Row]:
    """One row per value: preset, method, sparsity, metric, ticket, seed, value.

    Draws of one preset are together whatever their products were computed in: the page says it.
    """
    frame = tb.results(runs)
    ours = frame[(frame.experiment == "text_domains") & frame.method.isin([*NAMES])]
    for row in ours.to_dict("records"):
        name, metric = NAMES[row["method"]], row["metric"]
        preset = " ".join(word for word in row["preset"].split() if "precision=" not in word)
        if metric == "nats_wrong":
            if name != "own":
                continue
            name, metric = "wrong", "nats"
        if metric == "nats" or metric in (*STORED, "minutes"):
            keys = ("sparsity", "ticket", "seed", "value")
            yield {"method": name, "metric": metric, "preset": preset, **{key: row[key] for key in keys}}
    for line in more:
        found = json.loads(line)
        head = {"preset": f"{found['score']}_{found['inputs']}", "sparsity": found["sparsity"]}
        head |= {"seed": found["seed"]}
        for name in ("own", "pooled"):
            each = found[name]
            for ticket, value in {"": sum(each.values()) / len(each), **each}.items():
                yield {**head, "method": name, "metric": "nats", "ticket": ticket, "value": value}


def behind(rows: list[Row]) -> Iterator[Row]:
    """``nats_behind_pooled``: how much more each method loses than the pooled mask of the same draw."""
    key = ("preset", "sparsity", "ticket", "seed")
    nats = [row for row in rows if row["metric"] == "nats"]
    pooled = {tuple(row[k] for k in key): row["value"] for row in nats if row["method"] == "pooled"}
    for row in nats:
        of = tuple(row[k] for k in key)
        if row["method"] != "pooled" and of in pooled:
            yield {**row, "metric": "nats_behind_pooled", "value": row["value"] - pooled[of]}


def summary(rows: Iterable[Row]) -> list[Row]:
    """Means over draws, with the values of each."""
    groups: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("preset", "method", "sparsity", "metric", "ticket"))
        groups.setdefault(key, {})[str(row["seed"])] = row["value"]
    found = []
    for (preset, method, sparsity, metric, ticket), each in groups.items():
        made: Row = {"experiment": "text_domains", "preset": preset, "method": method, "sparsity": sparsity}
        made |= {"reading": "", "metric": metric, **({"ticket": ticket} if ticket else {})}
        found.append(over_seeds(made, each))
    return found


def tables(rows: list[Row]) -> str:
    """Loss and difference of every preset and method, mean and by domain."""
    domains = sorted({row["ticket"] for row in rows if "ticket" in row})
    parts = []
    for metric, title in (
        ("nats", "Loss in nats per token"),
        ("nats_behind_pooled", "Behind the pooled mask"),
    ):
        head = ["preset", "removed", "mask", "draws", "mean", *domains]
        lines = [f"**{title}**\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        mine = [row for row in rows if row["metric"] == metric]
        for key in dict.fromkeys((row["preset"], row["sparsity"], row["method"]) for row in mine):
            of = {
                row.get("ticket", ""): row
                for row in mine
                if (row["preset"], row["sparsity"], row["method"]) == key
            }
            cells = [_cell(of[name]) if name in of else "" for name in ("", *domains)]
            preset, sparsity, method = key
            first = [preset, f"{100 * sparsity:g}%", f"`{method}`", str(of[""]["seeds"])]
            lines.append("| " + " | ".join([*first, *cells]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(row: Row) -> str:
    sign = "+" if row["metric"] != "nats" else ""
    around = f" ± {row['ci95']:.3f}" if row["ci95"] is not None else ""
    return f"{row['mean']:{sign}.3f}{around}"


if __name__ == "__main__":
    runs, *files = map(Path, sys.argv[1:])
    every = [*values(runs, (line for file in files for line in file.read_text().splitlines()))]
    twin = PAGE.with_suffix(".json")
    place = Place(*MARKS, ("preset", "sparsity", "method"), joins=True)  # other runs, other draws stay
    rows = place.merge(json.loads(twin.read_text()), summary([*every, *behind(every)]))
    twin.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    text = tables(rows)
    if PAGE.exists() and all(mark in PAGE.read_text() for mark in MARKS):
        before, _, rest = PAGE.read_text().partition(MARKS[0])
        PAGE.write_text(before + MARKS[0] + "\n" + text + "\n" + MARKS[1] + rest.partition(MARKS[1])[2])
    print(text)
