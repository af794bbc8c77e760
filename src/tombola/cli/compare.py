"""``tombola compare``: the methods of finished runs beside each other."""

from __future__ import annotations

import sys
from pathlib import Path

from tombola._utils.errors import RunError, UsageError, unknown
from tombola.cli.options import Flag, Page, Words
from tombola.cli.terminal import runs_of, show
from tombola.lab.report.formats import Form, csv, latex, markdown
from tombola.lab.report.page import made_by, put_tables
from tombola.lab.report.rows import rows as rows_of
from tombola.lab.report.tables import tables


def compare(
    *paths: Path, method: Words = (), write: Page = None, format: Form = "table", json: Flag = False
) -> None:
    """Compare the methods of runs: both readings, the paper's figures, everything that is stored.

    Example: tombola compare runs/digits-quick

    Args:
        paths: Run directories, or folders that hold some; seeds of one experiment are averaged.
        method: Show these methods; what they are ahead of is taken from all that the runs have.
        write: A Markdown page to put the tables into, with a JSON twin beside it. Methods that are not shown
            keep the rows that they have there.
        format: Instead of tables for a terminal: tables for a paper (latex, with booktabs) or a page
            (markdown), or rows for machines (csv, json).
        json: The same as --format json.
    """
    if json and format not in ("table", "json"):
        raise UsageError(f"--json and --format {format}: give one of them")
    rows = rows_of(runs_of(paths, "compare"))
    if not rows:
        raise RunError("no outcome is finished in these runs yet: `tombola resume RUN` goes on")
    found = dict.fromkeys(row["method"] for row in rows)
    for name in method:
        if name not in found:
            raise UsageError(unknown("method in these runs", name, found))
    shown = [row for row in rows if not method or row["method"] in method]
    made = tables(shown)
    if write is not None:
        # What a ticket alone is ahead of others than imp is on no page, and is most of the rows of many.
        kept = [row for row in shown if not (row.get("ticket") and "_lead_" in row["metric"])]
        put_tables(write, made_by("compare"), kept, tables)
    if format in ("latex", "markdown"):
        sys.stdout.write(latex(made) if format == "latex" else markdown(made))
    elif format == "csv":
        sys.stdout.write(csv(shown))
    else:
        show(made, shown, json or format == "json")
