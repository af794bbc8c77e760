"""``tombola forget``: a ticket leaves a file of tickets, and takes its weights along."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from tombola._utils import io
from tombola.cli.network import network
from tombola.cli.options import Flag
from tombola.cli.terminal import say
from tombola.tickets.model import load


def forget(
    file: Path,
    name: str,
    /,
    *,
    backbone: str | None = None,
    save: Path | None = None,
    json: Flag = False,
) -> None:
    """Take a ticket out of a file, with all weights that only it owned; the others answer as before.

    The file is replaced at once or not at all, and what it held before is overwritten with zeros. Copies that
    a file system, a backup or another folder keeps are not.

    Example: tombola forget clinics.tickets third

    Parameters
    ----------
    file: Path
        A ticket file.
    name: str
        The ticket that leaves.
    backbone: str
        MODULE:NAME of the network, or of a function that makes it; by default that of the experiment that the
        ticket file or its run names.
    save: Path
        Where to write the other tickets; by default over FILE.
    json: bool
        Print what was done for machines.
    """
    with io.changing(file) if save is None else nullcontext() as held:
        metadata = io.read(file)[1].get("facts", {})
        tickets = load(file, network(file, metadata, backbone))
        kept, shared = int(tickets[name].sum()), tickets.shared_with(name)
        before = file.stat().st_size
        left = tickets.forget(name)
        size = left.save(save or file)
        if held is not None:
            io.overwrite(held)
    made = {
        "file": str(save or file),
        "ticket": name,
        "overwritten": kept - shared,
        "shared": shared,
        "free": left.free,
        "bytes": size,
        "bytes_before": before,
    }
    said = (
        f"{shared:,} of its weights are kept by others as well: what was trained with it is in them, "
        "and stays"
        if shared
        else "none of its weights is kept by another ticket: nothing of its data is left"
    )
    say(
        f"{made['file']}: without {name}; {kept - shared:,} weights that only it owned are gone\n{said}\n"
        f"the others ({', '.join(left.names)}) answer as before, bit for bit; {before:,} bytes are now "
        f"{size:,}\n",
        made,
        json,
    )
