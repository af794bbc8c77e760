"""``tombola inspect``: what is in a ticket file."""

from __future__ import annotations

from pathlib import Path

from tombola.cli.options import Flag
from tombola.cli.terminal import print_json, print_tickets
from tombola.lab.report.inspect import describe


def inspect(file: Path, /, *, json: Flag = False) -> None:
    """Show what is in a ticket file.

    Example: tombola inspect runs/digits-quick/seed0/tickets/rtl-0.5.tickets

    Parameters
    ----------
    file: Path
        A ticket file.
    json: bool
        Everything, for machines: also similarity and the settings it was made with.
    """
    metadata = describe(file)
    if json:
        print_json(metadata)
    else:
        print_tickets(metadata)
