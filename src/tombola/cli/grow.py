"""``tombola grow``: a ticket for new data in a file of tickets, without the data of the others."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

from tombola._utils import io
from tombola._utils.errors import UsageError, unknown
from tombola.cli.network import network
from tombola.cli.options import Flag, Words, check_save, use_threads, written
from tombola.cli.terminal import say, say_aside
from tombola.lab.evaluation.new_data import data_of, judged
from tombola.lab.evaluation.objective import objective_of
from tombola.objectives.metrics import metric_info
from tombola.pruning.schedules import kept
from tombola.settings import Settings
from tombola.tickets import inputs
from tombola.tickets.fitted import PARTS
from tombola.tickets.growth import Policy
from tombola.tickets.model import load


def grow(
    file: Path,
    /,
    *,
    name: str,
    data: str,
    target: str | None = None,
    policy: str = "reuse",
    sparsity: float | None = None,
    widen: str | None = None,
    objective: str | None = None,
    backbone: str | None = None,
    seed: int = 0,
    set: Words = (),
    save: Path | None = None,
    threads: int | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Add a ticket for new data to a file of tickets; what the others answer keeps its bits.

    The data of the others are not needed. The new ticket may read weights that are there, and moves none that
    another ticket owns. A prototype router and temperatures take the new ticket in; a router that needs the
    data of all is left out. The file is replaced at the end, at once or not at all.

    Example: tombola grow clinics.tickets --name eleventh --data eleventh.csv --target diagnosis

    Args:
        file: A ticket file.
        name: Of the new ticket.
        data: Its data: a table (CSV, Parquet), arrays x and y (.npz), a folder of pictures in folders of
            their classes, or MODULE:NAME of a `tombola.Data` or a function that makes one.
        target: The column of a table that is asked for.
        policy: What the ticket may use: free (only weights that no ticket owns), reuse (those of others as
            well, as they are), all (all of others', as they are), or frozen (only its mask is found).
        sparsity: Share of all weights that it does not keep; by default it keeps as many as the first ticket.
        widen: MODULE:NAME of a wider network of the same layers, to which the file belongs from then on.
        objective: MODULE:NAME of an objective, or the name of one that ships; by default that of the file.
        backbone: MODULE:NAME of the network, or of a function that makes it; by default that of the
            experiment that the ticket file or its run names.
        seed: Of new weights and of the order of the data, together with the name: tickets of other names
            share no draws.
        set: Settings that differ from those of the others, such as train.lr=0.01.
        save: Where to write the tickets; by default over FILE.
        threads: Threads; all cores by default.
        force: Replace the file of --save that is there already.
        json: Print what was done for machines.
    """
    use_threads(threads)
    if policy not in get_args(Policy):
        raise UsageError(unknown("policy", policy, get_args(Policy)))
    if sparsity is not None:
        kept(1, sparsity)  # an error unless it is a share
    began, file = time.perf_counter(), file.resolve()  # of a link, what it leads to
    check_save(save, file, data, force=force)
    with io.changing(file) if save is None else nullcontext():
        header = io.read_metadata(file)
        if name in header.get("names", ()):
            raise UsageError(f"there is a ticket {name!r} already: choose another name, or forget it first")
        metadata = header.get("facts", {})
        task = objective_of(objective, metadata)
        tickets = load(file, network(file, metadata, backbone))
        found = data_of(data, target, inputs.known(metadata))
        changes = _changes(metadata, set)
        free, before = tickets.free, file.stat().st_size
        say_aside(f"{free:,} of {tickets.scope.size:,} weights are owned by no ticket")
        if widen is not None:
            tickets = tickets.widen(network(file, metadata, widen))
            free = tickets.free
        grown = tickets.grow(name, found, task, policy=policy, sparsity=sparsity, seed=seed, **changes)
        again = written(
            "grow", file.name, name=name, data=data, target=target, policy=policy, sparsity=sparsity,
            widen=widen, objective=objective, backbone=backbone, seed=seed, set=set,
        )  # fmt: skip
        grown.metadata["grown"][name]["command"] = again
        size = grown.save(save or file)
    made = {
        "file": str(save or file),
        "ticket": name,
        "policy": policy,
        "kept": int(grown[name].count_nonzero()),
        "own": free - grown.free,
        "free": grown.free,
        "bytes": size,
        "bytes_before": before,
        "seconds": time.perf_counter() - began,
        **judged(grown, name, found, task),
    }
    exact = "as before" if widen else "as before, bit for bit"  # a wider network may round otherwise
    others = f"the other tickets answer {exact}"
    along = "".join(
        f"the {part} takes {name} in, by its own data\n" for part in PARTS if getattr(grown, part) is not None
    )
    say(_words(made, others) + along, made, json)


def _words(made: dict[str, Any], others: str) -> str:
    quality = [f"{metric_info(n).label} {v:.3f}" for n, v in made.items() if n not in _COUNTS]
    return (
        f"{made['file']}: ticket {made['ticket']} ({made['policy']}) keeps {made['kept']:,} weights, "
        f"{made['own']:,} of them its own; {', '.join(quality) or 'not judged'} on its test split\n"
        f"{others}; {made['free']:,} weights are left; "
        f"{made['bytes_before']:,} bytes are now {made['bytes']:,} ({made['seconds']:.1f} s)\n"
    )


_COUNTS = {"file", "ticket", "policy", "kept", "own", "free", "bytes", "bytes_before", "seconds"}


def _changes(metadata: dict[str, Any], changes: Words) -> dict[str, Any]:
    """Settings that are asked for, as arguments."""
    if not changes:
        return {}
    base = Settings.from_plain(metadata["settings"]) if "settings" in metadata else Settings()
    changed, names = base.changed(changes), {change.partition("=")[0].partition(".")[0] for change in changes}
    return {name: getattr(changed, name) for name in names}
