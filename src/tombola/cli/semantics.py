"""`tombola semantics`: do tickets of related classes look alike?"""

from __future__ import annotations

from pathlib import Path

from tombola._utils.errors import UsageError
from tombola._utils.io import write_bytes
from tombola.cli.options import Flag, Kept, Page, new
from tombola.cli.terminal import runs_of, say_aside, show, to_json
from tombola.lab.analysis.semantics import power
from tombola.lab.report.page import check_page, place_of, put_tables
from tombola.lab.report.semantics import check_figure, draw, group_tables, grouped, meaning, states, table
from tombola.lab.report.tables import Table, heading

_POWER = (0.2, 0.3, 0.4, 0.5, 0.6)  # correlations that a test might find


def semantics(
    *paths: Path,
    names: str = "wordnet",
    measure: str = "kappa",
    known: Path | None = None,
    permutations: int = 9999,
    figure: Path | None = None,
    keep: Kept = None,
    write: Page = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Compare the similarity of masks with that of the tickets' names, by depth, sparsity and round.

    The same for the controls that the runs hold: twins, masks from |theta0|, a shuffled partition.

    Example: tombola semantics runs/cifar10-quick --names wordnet.csv --figure fig3.svg

    Args:
        paths: Run directories of one experiment and preset, or folders that hold some.
        names: What names mean: a CSV table of similarities, an NPY file of vectors, wordnet, or text
            (extras).
        measure: How masks are compared: kappa or jaccard.
        known: A JSON file, name to group, to compare clusters of tickets with; those of CIFAR are known.
        permutations: How often names are shuffled in each test, and drawn for each interval (1,000 times at
            most).
        figure: Panels A to E after the paper's Figure 3: NAME.svg, NAME.png or NAME.pdf.
        keep: A file semantics.json for `tombola report`, which looks for it in a run and above.
        write: A Markdown page to put the tables into, with a JSON twin; every experiment has marks of its
            own.
        force: Replace a figure that is there already.
        json: Print everything for machines instead of tables.
    """
    if figure is not None:
        check_figure(figure)
        new(figure, force=force)
    unread: list[str] = []
    found = states(runs_of(paths, "semantics"), measure, unread)  # type: ignore[arg-type]
    for reason in unread:
        say_aside(f"left out: {reason}")
    if len(found) > 1:
        heads = ", ".join(" ".join(head) for head in found)
        raise UsageError(f"these are runs of several experiments or presets, name one: {heads}")
    ((head, mine),) = found.items()
    if write is not None:
        check_page(write, place_of(head))
    of_names, what = meaning(mine[0].similarity.names, names)
    rows = [state.row(of_names, permutations) for state in mine]
    groups = grouped(mine, known, permutations)
    chances = {f"{rho:g}": power(of_names, rho, permutations=min(permutations, 999)) for rho in _POWER}
    experiment = {"experiment": head[0], "preset": head[1], "what": what}
    content = {**experiment, "measure": measure, "rows": rows, "groups": groups, "power": chances}
    content["names"] = {"tickets": list(of_names.names), "matrix": of_names.values_KK.tolist()}
    of, K, pairs = heading(head), len(of_names.names), len(of_names.pairs())
    title = f"Power: how often a test of {K} names ({pairs} pairs) finds a correlation, at p = .05"
    tables = [
        table(rows, f"Spearman's rho of mask similarity and {what}", of),
        *group_tables(groups, of),
        Table(title, ["correlation", *chances], [["found", *(f"{s:.0%}" for s in chances.values())]], of),
    ]
    if figure is not None:
        draw(mine, rows, of_names, what, figure)
    if keep is not None:
        write_bytes(keep, to_json(content).encode())
    if write is not None:
        put_tables(write, place_of(head), [experiment | row for row in rows], tables)
    show(tables, content, json)
