"""``tombola report``: one HTML page of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tombola.cli.options import Flag, new
from tombola.cli.terminal import say
from tombola.lab.report.html import is_report, write_report


def report(
    *paths: Path,
    out: Annotated[Path, Parameter(name=("--out", "-o"))] = Path("report.html"),
    open: Flag = False,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Make one self-contained HTML page of runs: the answer, then curves, tickets, storage, similarity.

    Example: tombola report runs/digits-quick -o digits.html --open

    Args:
        paths: Run directories, or folders that hold some; a folder `pictures` in or beside a run is embedded,
            up to 1.2 MB.
        out: The HTML file to write.
        open: Show it in a browser.
        force: Replace a file that is there already and is no report.
        json: Print what was written, for machines.
    """
    new(out, force=force, own=is_report)
    made = write_report(paths, out, show=open)
    say(f"{made['file']}\n", made, json)
