"""``tombola compare``: the methods of finished runs beside each other."""

from __future__ import annotations

from pathlib import Path

from tombola._utils.errors import RunError, UsageError, unknown
from tombola.cli.options import Flag, Page, Words
from tombola.cli.terminal import runs_of, show_rows
from tombola.lab.report.page import made_by
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.report.tables import tables


def compare(
    *paths: Path,
    method: Words = (),
    write: Page = None,
    json: Flag = False,
) -> None:
    """Compare the methods of runs: both readings, the paper's figures, everything that is stored.

    Example: tombola compare runs/digits-quick

    Parameters
    ----------
    paths: Path
        Run directories, or folders that hold some; seeds of one experiment are averaged.
    method: tuple[str, ...]
        Show these methods; what they are ahead of is taken from all that the runs have.
    write: Path
        A Markdown page to put the tables into, with a JSON twin beside it. Methods that are not shown keep
        the rows that they have there.
    json: bool
        Print rows for machines instead of tables.
    """
    rows = rows_of(runs_of(paths, "compare"))
    if not rows:
        raise RunError("no outcome is finished in these runs yet: `tombola resume RUN` goes on")
    found = dict.fromkeys(row["method"] for row in rows)
    for name in method:
        if name not in found:
            raise UsageError(unknown("method in these runs", name, found))
    shown = [row for row in rows if not method or row["method"] in method]
    show_rows(shown, tables, json, write, made_by("compare"))
