"""`tombola semantics`: do tickets of related classes look alike?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tombola._utils.errors import UsageError
from tombola._utils.io import write_bytes
from tombola.cli.options import Flag
from tombola.cli.terminal import err_console, runs_of, show, to_json
from tombola.lab.analysis.groups import agreement
from tombola.lab.analysis.named import Named
from tombola.lab.analysis.power import power
from tombola.lab.report import alignments
from tombola.lab.report.meaning_figure import draw
from tombola.lab.report.meanings import groups, meaning
from tombola.lab.report.page import place_of, put_tables
from tombola.lab.report.tables import Table, heading

_POWER = (0.2, 0.3, 0.4, 0.5, 0.6)  # correlations that a test might find


def semantics(
    *paths: Path,
    names: str = "wordnet",
    measure: str = "kappa",
    known: Path | None = None,
    permutations: int = 9999,
    figure: Path | None = None,
    keep: Path | None = None,
    write: Path | None = None,
    json: Flag = False,
) -> None:
    """Compare the similarity of masks with that of the tickets' names, by depth, sparsity and round.

    The same for the controls that the runs hold: twins, masks from |theta0|, a shuffled partition.

    Example: tombola semantics runs/cifar10-quick --names wordnet.csv --figure fig3.svg

    Parameters
    ----------
    paths: Path
        Run directories of one experiment and preset, or folders that hold some.
    names: str
        What names mean: a CSV table of similarities, an NPY file of vectors, wordnet, or text (extras).
    measure: str
        How masks are compared: kappa or jaccard.
    known: Path
        A JSON file, name to group, to compare clusters of tickets with; those of CIFAR are known.
    permutations: int
        How often names are shuffled in each test.
    figure: Path
        Panels A to E after the paper's Figure 3: NAME.svg, NAME.png or NAME.pdf.
    keep: Path
        A file semantics.json for `tombola report`, which looks for it in a run and above.
    write: Path
        A Markdown page to put the tables into, with a JSON twin; every experiment has marks of its own.
    json: bool
        Print everything for machines instead of tables.
    """
    unread: list[str] = []
    found = alignments.states(runs_of(paths, "semantics"), measure, unread)  # type: ignore[arg-type]
    for reason in unread:
        err_console.print(f"left out: {reason}", highlight=False, soft_wrap=True)
    if len(found) > 1:
        heads = ", ".join(" ".join(head) for head in found)
        raise UsageError(f"these are runs of several experiments or presets, name one: {heads}")
    ((head, states),) = found.items()
    of_names, what = meaning(states[0].similarity.names, names)
    made = alignments.aligned(states, of_names, permutations)
    grouped = _grouped(states, known)
    chances = {f"{rho:g}": power(of_names, rho) for rho in _POWER}
    plain = [{"experiment": head[0], "preset": head[1], "what": what} | each.plain() for each in made]
    content: dict[str, Any] = {
        "experiment": head[0],
        "preset": head[1],
        "what": what,
        "measure": measure,
        "rows": [each.plain() for each in made],
        "groups": grouped,
        "power": chances,
        "names": {"tickets": list(of_names.names), "matrix": of_names.values_KK.tolist()},
    }
    of = heading(head)
    tables = [
        alignments.table(of, made, what),
        *_group_tables(of, grouped),
        _power_table(of, of_names, chances),
    ]
    if figure is not None:
        draw(made, of_names, what, figure)
    if keep is not None:
        write_bytes(keep, to_json(content).encode())
    if write is not None:
        put_tables(write, place_of(head), plain, tables)
    show(tables, content, json)


def _grouped(states: list[alignments.Snapshot], known: Path | None) -> list[dict[str, Any]]:
    """Clusters of tickets against known groups, over all layers and in the deep third."""
    given = groups(states[0].similarity.names, known)
    if given is None:
        return []
    rows = []
    for state in states:
        if state.depth in ("all", "deep") and state.source != "theta0":  # one mask has no clusters
            try:
                found = agreement(state.similarity, given[0], permutations=199)
            except UsageError:  # no kappa between some of them
                continue
            row = {"source": state.source, "depth": state.depth, "removed": state.removed, "what": given[1]}
            rows.append(row | {"ami": found.ami, "chance95": found.chance95, "p": found.p})
    return rows


def _group_tables(of: str, rows: list[dict[str, Any]]) -> list[Table]:
    body = []
    for row in rows:
        head = [alignments.SOURCES[row["source"]][1].partition(":")[0], row["depth"], f"{row['removed']:.1%}"]
        body.append([*head, f"{row['ami']:+.2f}", f"{row['chance95']:+.2f}", f"{row['p']:.3f}"])
    header = ["masks", "layers", "removed", "AMI", "95% of chance", "p"]
    return [Table(f"Clusters of tickets against {rows[0]['what']}", header, body, of)] if rows else []


def _power_table(of: str, names: Named, chances: dict[str, float]) -> Table:
    K = len(names.names)
    title = f"Power: how often a test of {K} names ({K * (K - 1) // 2} pairs) finds a correlation, at p = .05"
    found = ["found", *(f"{share:.0%}" for share in chances.values())]
    return Table(title, ["correlation", *chances], [found], of)
