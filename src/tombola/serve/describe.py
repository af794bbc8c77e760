"""What clients are told of the tickets: names, hashes, what they take, how alike they are."""

from __future__ import annotations

from math import isfinite

from torch import Tensor

from tombola.data.table import needed
from tombola.serve import schema
from tombola.serve.registry import Entry, State
from tombola.tickets.fitted import answer_of
from tombola.tickets.inputs import Inputs


def served(state: State) -> schema.Served:
    """All files and aliases of a state."""
    aliases = {alias: f"{file}/{name}" for alias, (file, name) in state.aliases.items()}
    return schema.Served(files=[file_of(e) for e in state.files.values()], aliases=aliases, first=state.first)


def file_of(entry: Entry) -> schema.File:
    """A file, in short."""
    tickets = entry.tickets
    return schema.File(
        name=entry.name,
        hash=entry.hash,
        answer=answer_of(tickets),
        takes=takes(entry.taken),
        router=tickets.router.kind if tickets.router is not None else None,
        calibrated=tickets.calibration is not None,
        weights=tickets.scope.size,
        tickets=[schema.Ticket(name=n, hash=h, kept=entry.kept[n]) for n, h in entry.hashes.items()],
    )


def takes(taken: Inputs) -> schema.Takes:
    """What a client may send."""
    form = taken.stored
    if taken.text is not None:
        return schema.Takes(kind="text", form=None, columns=[taken.text["column"]])
    if taken.kind == "sound":
        return schema.Takes(kind="sound", form=None, columns=[])
    if taken.features is not None:
        return schema.Takes(kind="row", form=form, columns=needed(taken.features))
    shape = form.get("tensor")
    picture = shape is not None and len(shape) == 3 and shape[0] in (1, 3)
    kind = "parts" if shape is None else "image" if picture else "array"
    return schema.Takes(kind=kind, form=form, columns=[])  # type: ignore[arg-type]


def similar(entry: Entry) -> schema.Similar:
    """What tickets store and share; of pairs only where there are not too many."""
    masks, tickets, alike = entry.tickets.masks, entry.tickets, entry.alike
    return schema.Similar(
        name=entry.name,
        weights=masks.scope.size,
        union=int(masks.union().count_nonzero()),
        core=int(masks.core().count_nonzero()),
        own=tickets.private.size + tickets.statistics.size,
        tickets=list(masks.names),
        jaccard=None if alike is None else _rounded(alike.jaccard()),
        kappa=None if alike is None else _rounded(alike.kappa()),
    )


def _rounded(values_KK: Tensor) -> list[list[float | None]]:
    return [[round(v, 4) if isfinite(v) else None for v in row] for row in values_KK.tolist()]
