"""``tombola compare``: the methods of finished runs beside each other."""

from __future__ import annotations

from pathlib import Path

from tombola.commands.options import Flag
from tombola.report.page import made_by
from tombola.report.rows import rows as rows_of
from tombola.report.tables import tables
from tombola.terminal import runs_of, show_rows


def compare(
    *paths: Path,
    write: Path | None = None,
    json: Flag = False,
) -> None:
    """Compare the methods of runs: both readings, the paper's figures, everything that is stored.

    Example: tombola compare runs/digits-quick

    Parameters
    ----------
    paths: Path
        Run directories, or folders that hold some; seeds of one experiment are averaged.
    write: Path
        A Markdown page to put the tables into, with a JSON twin beside it.
    json: bool
        Print rows for machines instead of tables.
    """
    show_rows(rows_of(runs_of(paths, "compare")), tables, json, write, made_by("compare"))
