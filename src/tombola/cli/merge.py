"""``tombola merge``: fine-tunes of one network become the tickets of one file, without data."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from tombola._utils import io
from tombola._utils.errors import UsageError, unknown
from tombola.cli.network import network
from tombola.cli.options import Flag, Words
from tombola.cli.terminal import show
from tombola.lab.report.tables import Table, share, whole
from tombola.tickets.merging import Method
from tombola.tickets.merging import merge as merged


def merge(
    out: Path,
    /,
    *checkpoints: str,
    backbone: str,
    method: str = "tall",
    include: Words = (),
    exclude: Words = (),
    json: Flag = False,
) -> None:
    """Make one ticket file of several fine-tunes of one network: a shared change, and a mask each.

    The network itself is not stored: who loads the file brings it.

    Example: tombola merge tasks.tickets mail=mail.safetensors news=news.safetensors --backbone nets:base

    Parameters
    ----------
    out: Path
        The ticket file.
    checkpoints: str
        TASK=FILE for each fine-tune: safetensors, or a state_dict that torch has saved.
    backbone: str
        MODULE:NAME of the network that all were fine-tuned from, with its pretrained weights, or of a
        function that makes it.
    method: str
        tall (a mask and a scale each), emr (the same by signs), ties or mean (one network for all).
    include: tuple[str, ...]
        Names or globs of the weights that share a change; matrices and kernels by default.
    exclude: tuple[str, ...]
        Names or globs of weights that do not.
    json: bool
        Print what is kept and stored for machines.
    """
    if method not in get_args(Method):
        raise UsageError(unknown("method", method, get_args(Method)))
    given = {}
    for one in checkpoints:
        task, sign, path = one.partition("=")
        if not sign or not task or not path:
            raise UsageError(f"a checkpoint is given as TASK=FILE: got {one!r}")
        if task in given:
            raise UsageError(f"there are two checkpoints of {task!r}")
        given[task] = Path(path)
    io.check_target(out)
    base = network(out, {}, backbone)
    tickets = merged(base, given, method, include=include or None, exclude=exclude)  # type: ignore[arg-type]
    size = tickets.save(out)
    kept, N = tickets.metadata["merged"], tickets.scope.size
    rows = [
        {"task": name, "kept": kept[name]["kept"], "weights": count, "bytes": size}
        for name, count in tickets.masks.counts.items()
    ]
    body = [[str(row["task"]), share(row["kept"]), whole(row["weights"])] for row in rows]
    each = sum(t.numel() * t.element_size() for t in base.parameters())
    title = (
        f"{out}: {size:,} bytes beside the base, {size / (len(given) * each):.2f} of {len(given)} networks; "
        f"{int(tickets.owned_N.sum()):,} of {N:,} weights changed"
    )
    show([Table(title, ["task", "kept of its change", "weights"], body)], rows, json)
