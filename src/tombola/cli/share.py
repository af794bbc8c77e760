"""``tombola share``: a ticket file with its model card, as a folder or on a hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import nn

from tombola._utils.imported import imported
from tombola.cli.network import network
from tombola.cli.options import Flag, new
from tombola.cli.terminal import say
from tombola.lab.card import command, figures, run_of
from tombola.lab.experiments import EXPERIMENTS
from tombola.runs.log import read_config
from tombola.tickets import files, sharing
from tombola.tickets.card import About
from tombola.tickets.model import load


def share(
    file: Path,
    folder: Path,
    /,
    *,
    base: str = "",
    backbone: str | None = None,
    licence: str = "",
    base_licence: str = "",
    data_licence: str = "",
    push: str = "",
    private: Flag = False,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Write a ticket file and a model card into a folder that `TicketModel.from_pretrained` reads.

    The card says what is in the file, how it is used and made again, and what its run measured beside it:
    every method and control, in both readings, over all seeds that lie there.

    Example: tombola share runs/digits-quick/seed0/tickets/rtl-0.5.tickets shared --licence apache-2.0

    Args:
        file: A ticket file.
        folder: Where to write; made if absent.
        base: The name on a hub of the pretrained network that the tickets are of. It takes the place of a
            folder of this machine in the file and the card.
        backbone: MODULE:NAME of a network of your own, or of a function that makes it, for the program of the
            card; by default that of the experiment that the run names.
        licence: Of the tickets, as hubs write it, such as apache-2.0.
        base_licence: Of the pretrained network.
        data_licence: Of the data.
        push: OWNER/NAME of a repository on the hub to upload the folder to (the extra `hub`); made if absent.
        private: A new repository is private.
        force: Replace a ticket file and card that is there already.
        json: Print what was written, for machines.
    """
    new(folder / sharing.FILE, force=force, read=[file])  # a card without it is not replaced in any case
    tensors, header, _ = files.opened(file)
    run = run_of(file)
    known = read_config(run).get("experiment") if run else None
    if known and ":" not in known:
        header["facts"].setdefault("experiment", known)
    own = _network(file, header["facts"], backbone, known)
    about = About(
        name=push or str(folder),
        base=base,
        licence=licence,
        base_licence=base_licence,
        data_licence=data_licence,
        figures=figures(file),
        again=command(file, base),
        network=own,
    )
    sharing.share(folder, tensors, header, about)
    size = (folder / sharing.FILE).stat().st_size
    made = {"folder": str(folder), "files": [sharing.FILE, sharing.CARD], "bytes": size}
    if push:
        made["address"] = sharing.push(folder, push, private)
    if not json:
        sys.stderr.write(_missing(about, header["facts"].get("pretrained", {}).get("model", "")))
    where = f", uploaded to {made['address']}" if push else ""
    say(f"{folder}: {sharing.FILE}, {size:,} bytes, and its card {sharing.CARD}{where}\n", made, json)


def _network(file: Path, facts: dict[str, Any], given: str | None, experiment: str | None) -> str:
    """Lines that make a network of the user's own, after the one that is given was tried."""
    if given is not None:
        load(file, network(file, facts, given))
        if given in EXPERIMENTS:
            facts["experiment"] = given
        elif "pretrained" not in facts:
            module, _, name = given.partition(":")
            call = "" if isinstance(imported(given, "--backbone"), nn.Module) else "()"
            return f"import {module}\n\nnetwork = {module}.{name}{call}"
    elif experiment and ":" in experiment:
        module, _, name = experiment.partition(":")
        return f"import {module}\n\nnetwork = {module}.{name}.backbone(torch.Generator())"
    return ""


def _missing(about: About, pretrained: str) -> str:
    """What the user may still want to say."""
    words = ""
    if Path(pretrained).is_absolute() and not about.base:
        words = f"the file says that the base lies in {pretrained}: give --base NAME before others get it\n"
    whose = {"licence": "the tickets", "base_licence": "the base network", "data_licence": "the data"}
    if not (pretrained or about.base):
        del whose["base_licence"]
    lacking = {f"--{n.replace('_', '-')}": of for n, of in whose.items() if not getattr(about, n)}
    if not lacking:
        return words
    of, options = " and of ".join(lacking.values()), ", ".join(lacking)
    return f"{words}the card says that no licence of {of} is given: {options}\n"
