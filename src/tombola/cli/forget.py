"""``tombola forget``: a ticket leaves a file of tickets, and takes its weights along."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from tombola._utils import io
from tombola.cli.network import network
from tombola.cli.options import Flag, check_save
from tombola.cli.terminal import say
from tombola.tickets.model import load


def forget(
    file: Path,
    name: str,
    /,
    *,
    backbone: str | None = None,
    save: Path | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Take a ticket out of a file, with all weights that only it owned; the others answer as before.

    The file is replaced at once or not at all, and what it held before is overwritten with zeros. Copies that
    a file system, a backup or another folder keeps are not.

    Example: tombola forget clinics.tickets third

    Args:
        file: A ticket file.
        name: The ticket that leaves.
        backbone: MODULE:NAME of the network, or of a function that makes it; by default that of the
            experiment that the ticket file or its run names.
        save: Where to write the other tickets; by default over FILE.
        force: Replace the file of --save that is there already.
        json: Print what was done for machines.
    """
    file = file.resolve()  # of a link, what it leads to
    check_save(save, file, force=force)
    with io.changing(file) if save is None else nullcontext() as held:
        metadata = io.read_metadata(file).get("facts", {})
        tickets = load(file, network(file, metadata, backbone))
        kept, shared = int(tickets[name].count_nonzero()), tickets.shared_with(name)
        before, links = file.stat().st_size, file.stat().st_nlink
        left = tickets.forget(name)
        size = left.save(save or file)
        if held is not None and links == 1:
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
    grown = name in metadata.get("grown", {})
    lines = [f"{made['file']}: without {name}; {kept - shared:,} weights that only it owned are not in it"]
    if shared:
        lines.append(f"{shared:,} of its weights are kept by others as well, and stay")
    if not grown:
        lines.append(
            "what was trained together with it (shared weights, output layer, norms, biases) stays as it is"
        )
    elif not shared:
        lines.append("none of its weights is kept by another ticket: nothing of its data is left in any")
    if save is not None:
        lines.append(f"{file} still holds it")
    elif links > 1:
        lines.append(f"{file} has other names (hard links), under which the old content is left")
    others = f"the others ({', '.join(left.names)}) answer as before, bit for bit"
    lines.append(f"{others}; {before:,} bytes are now {size:,}")
    say("".join(f"{line}\n" for line in lines), made, json)
