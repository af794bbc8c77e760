"""`tombola export`: one ticket as a file that other programs read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch import Tensor, nn

from tombola._utils import io
from tombola._utils.batch import Batch
from tombola._utils.errors import UnknownTicket, UsageError
from tombola.cli.network import network
from tombola.cli.options import Flag, Integers
from tombola.cli.terminal import say
from tombola.tickets import probe
from tombola.tickets.export.compact import compact as compacted
from tombola.tickets.export.files import (
    PROGRAMS,
    format_of,
    state_of,
    whole_channels,
    write_program,
    write_state,
)
from tombola.tickets.inputs import known
from tombola.tickets.model import TicketModel, load

PLAIN = ", or write a plain state dict (safetensors or pt without --compact), which needs none"


def export(
    file: Path,
    /,
    *,
    ticket: str | None = None,
    out: Annotated[Path, Parameter(name=("--out", "-o"))],
    compact: Flag = False,
    format: str | None = None,
    shape: Integers = (),
    backbone: str | None = None,
    json: Flag = False,
) -> None:
    """Write one ticket as a plain dense network: a state dict, a torch.export program, or ONNX.

    Example: tombola export runs/digits-quick/seed0/tickets/rtl-0.5.tickets --ticket three -o three.onnx

    Parameters
    ----------
    file: Path
        A ticket file.
    ticket: str
        Which ticket; needed where the file has several.
    out: Path
        The file to write; its suffix says the format.
    compact: bool
        Without the channels that are dead in a ticket of channels: fewer weights, equal outputs.
    format: str
        safetensors or pt (a state dict; pt for torch.load), pt2 (torch.export), onnx (the extra `onnx`).
    shape: tuple[int, ...]
        Of one input, such as 3 32 32; what the file says by default.
    backbone: str
        MODULE:NAME of the network, or of a function that makes it, for all but plain state dicts; by default
        that of the experiment that the ticket file or its run names.
    json: bool
        Print what was written, for machines.
    """
    form, header = format_of(out, format), io.read(file)[1]
    name, metadata = _ticket(header.get("names", []), ticket), header.get("facts", {})
    if form not in PROGRAMS and not compact and not metadata.get("reference"):
        size, weights = write_state(out, state_of(file, name), form, {"ticket": name}), None
    else:
        tickets = load(file, network(file, metadata, backbone, PLAIN))
        x = _example(tickets, shape, form)
        module = _compact(tickets, name, x) if compact else tickets.bake(name).eval()
        weights = sum(p.numel() for p in module.parameters())
        if form in PROGRAMS and x is not None:
            size = write_program(out, module, form, x)
        else:
            about = {"ticket": name, "compact": str(compact).lower()}
            size = write_state(out, module.state_dict(), form, about)
    classes = metadata.get("classes", {}).get(name)
    made = {"file": str(out), "format": form, "ticket": name, "bytes": size, "parameters": weights}
    if classes and not json:
        which = ", ".join(map(str, classes))
        sys.stderr.write(f"ticket {name} answers with classes {which}: its other outputs mean nothing\n")
    if (scale := metadata.get("scale")) and not json:
        sys.stderr.write(f"outputs are standardised: multiply by {scale['deviation']}, add {scale['mean']}\n")
    known_of: dict[str, Any] = {"classes": classes, **({"scale": scale} if scale else {})}
    if (steps := known(metadata).prepare) and not json:
        sys.stderr.write(f"inputs have to be prepared as in training: {dumps(steps)}\n")
    known_of |= {"prepare": steps} if steps else {}
    known_of |= {"class_names": names} if (names := metadata.get("class_names")) else {}
    say(f"{out}: ticket {name}, {form}, {size:,} bytes\n", {**made, **known_of}, json)


def _ticket(names: Sequence[str], name: str | None) -> str:
    if name is None and len(names) > 1:
        raise UsageError(f"which ticket? Give --ticket NAME, one of {', '.join(names)}")
    if name is not None and names and name not in names:
        raise UsageError(str(UnknownTicket(name, names)))
    return name or (names[0] if names else "")


def _example(tickets: TicketModel, shape: tuple[int, ...], form: str) -> Batch | None:
    """Inputs like those of training, random: of a shape that is given or known, or of any structure."""
    size, known = shape or tuple(tickets.metadata.get("shape", ())), tickets.metadata.get("probe")
    if any(n < 1 for n in size):
        raise UsageError(f"--shape needs positive numbers: got {' '.join(map(str, size))}")
    if known is not None and not shape:
        return probe.inputs(known)
    if size:
        return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    if form in PROGRAMS:
        raise UsageError(f"{form} is made for inputs of one shape, which the file does not say: give --shape")
    return None


def _compact(tickets: TicketModel, name: str, example: Batch | None) -> nn.Module:
    if example is not None and not isinstance(example, Tensor):
        raise UsageError(
            f"--compact is for networks of one tensor, and this one takes a {type(example).__name__}"
        )
    share = whole_channels(tickets.scope, tickets[name])
    if share < 0.5:
        raise UsageError(
            f"--compact takes out whole channels, but ticket {name} was pruned otherwise: {share:.0%} of "
            "what it removes are whole channels. Search with --set granularity=channel, or leave it out"
        )
    return compacted(tickets, name, example).eval()
