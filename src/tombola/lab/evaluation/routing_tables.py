"""The evaluation of routers as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, decibel, heading, share, whole

Format = Callable[[float], str]
QUALITY: dict[str, tuple[str, Format]] = {
    "accuracy": ("accuracy", share),
    "si_snri": ("SI-SNRi", decibel),
    "psnr": ("PSNR", decibel),
}
COLUMNS: list[tuple[str, str, Format]] = [
    ("gap_closed", "gap", share),
    ("routing_accuracy", "right", share),
    ("confidence", "sure", share),
]
COSTS: list[tuple[str, str, Format]] = [
    ("numbers", "decide", whole),
    ("stored", "stored", whole),
    ("ms_route_1", "ms", decibel),  # of one sample; batches of 64 are in the twin
    ("ms_ticket_1", "own ms", decibel),
]
SHOWN = ("prototype", "score")  # whose windows and confusions are printed; those of others are in the twin
NAMES = {
    "best_fixed": "best fixed ticket",
    "random": "a random ticket",
    "dense": "dense network",
    "imp": "single mask (IMP)",
    "union_size_imp": "union-size mask",
}


def tables(rows: Sequence[Row]) -> list[Table]:
    """For each experiment: who answers how well, windows, and confusions."""
    found: list[Table] = []
    for head in dict.fromkeys((row["experiment"], row["preset"]) for row in rows):
        mine = [row for row in rows if (row["experiment"], row["preset"]) == head]
        of = heading(head)
        found += _who(of, [row for row in mine if "window" not in row and "context" not in row])
        found.append(_windows(of, [row for row in mine if "window" in row]))
        for sparsity in dict.fromkeys(row["sparsity"] for row in mine):
            found += _confusions(
                of, sparsity, [r for r in mine if "context" in r and r["sparsity"] == sparsity]
            )
    return [table for table in found if table.body]


def _who(of: str, rows: Sequence[Row]) -> list[Table]:
    """How well each answers, and what choosing costs: two tables, so that each fits a terminal."""
    cells: dict[tuple[float, str], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["sparsity"], row["router"]), {})[row["metric"]] = row
    held = {metric for cell in cells.values() for metric in cell}
    columns = [(m, *QUALITY[m]) for m in QUALITY if m in held] + [c for c in COLUMNS if c[0] in held]
    costs = [c for c in COSTS if c[0] in held]
    well, dear = [], []
    for (sparsity, who), cell in cells.items():
        line = [NAMES.get(who, who), f"{sparsity:.0%}", str(max(row["seeds"] for row in cell.values()))]
        well.append([*line, *(_cell(cell.get(m), fmt) for m, _, fmt in columns)])
        if _passes(who):
            dear.append([*line[:2], *(_cell(cell.get(m), fmt) for m, _, fmt in costs), _passes(who)])
    header, more = (
        ["who", "cut", "n", *(c[1] for c in columns)],
        ["who", "cut", *(c[1] for c in costs)],
    )
    return [
        Table("Who chooses the ticket", header, well, of),
        Table("What choosing costs", [*more, "passes"], dear, of),
    ]


def _passes(who: str) -> str:
    """What choosing costs in passes of the network; nothing for those that are no routers."""
    kind, _, variant = who.partition(", ")
    if variant == "binary":
        return "log2 K f+b"
    return {
        "prototype": "shallow",
        "gate": "shallow",
        "score": "K f",
        "superposition": "f+b",
    }.get(kind, "")


def _windows(of: str, rows: Sequence[Row]) -> Table:
    cells: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        if row["router"] not in SHOWN:
            continue
        key = (row["sparsity"], row["router"], row["window"], row["margin"])
        cells.setdefault(key, {})[row["metric"]] = row
    held = {metric for cell in cells.values() for metric in cell}
    columns = [("routing_accuracy", "right", share), *((m, *QUALITY[m]) for m in QUALITY if m in held)]
    columns.append(("gap_closed", "gap", share))
    body = [
        [
            who,
            f"{sparsity:.0%}",
            str(size),
            f"{margin:g}",
            *(_cell(cell.get(m), fmt) for m, _, fmt in columns),
            "/".join(_cell(cell.get(m), whole) for m in ("switches", "true_switches")),
        ]
        for (sparsity, who, size, margin), cell in cells.items()
    ]
    header = ["router", "cut", "size", "lead", *(label for _, label, _ in columns), "moves"]
    return Table("A stream in which each context lasts for 32 samples", header, body, of)


def _confusions(of: str, sparsity: float, rows: Sequence[Row]) -> list[Table]:
    found = []
    for who in dict.fromkeys(row["router"] for row in rows):
        mine = [row for row in rows if row["router"] == who]
        if who not in SHOWN:
            continue
        to = list(dict.fromkeys(row["ticket"] for row in mine))
        shares = {(row["context"], row["ticket"]): row["mean"] for row in mine}
        body = [[a, *(share(shares[a, b]) for b in to)] for a in to]
        title = f"Which context goes to which ticket: {who}, {sparsity:.0%} sparsity"
        found.append(Table(title, ["context", *to], body, of))
    return found


def _cell(row: Row | None, fmt: Format) -> str:
    if row is None:
        return ""
    if row["ci95"] is None or fmt is whole or row["metric"].startswith(("ms_", "routing", "confidence")):
        return fmt(row["mean"])
    return f"{fmt(row['mean'])} ± {fmt(row['ci95'])}"
