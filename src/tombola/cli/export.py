"""`tombola export`: tickets as files that other programs read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from tombola.cli.options import Flag, Integers, new
from tombola.cli.terminal import say
from tombola.tickets import probe
from tombola.tickets.export.adapters import adapter_file, write_adapters
from tombola.tickets.export.compact import compact as compacted
from tombola.tickets.export.files import PROGRAMS, STATES, format_of, state_of, whole_channels, write_state
from tombola.tickets.export.peft import FILES, write_peft
from tombola.tickets.export.programs import write_program
from tombola.tickets.inputs import known
from tombola.tickets.model import TicketModel, load

PLAIN = ", or write a plain state dict (safetensors or pt without --compact), which needs none"


def export(
    file: Path,
    /,
    *,
    ticket: str | None = None,
    all: Flag = False,
    out: Annotated[Path, Parameter(name=("--out", "-o"))],
    compact: Flag = False,
    format: str | None = None,
    shape: Integers = (),
    backbone: str | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Write tickets for other programs: plain dense networks, ONNX with adapters, or adapters of peft.

    Example: tombola export runs/digits-quick/seed0/tickets/rtl-0.5.tickets --ticket three -o three.onnx

    Args:
        file: A ticket file.
        ticket: Which ticket; needed where the file has several and not --all are wanted.
        all: All tickets: as ONNX one network, and beside it an adapter for each (OUT.TICKET.onnx_adapter),
            which ONNX Runtime 1.20 swaps per request; in other formats OUT is a folder, with a file for each.
        out: The file to write; its suffix says the format.
        compact: Without the channels that are dead in a ticket of channels: fewer weights, equal outputs.
        format: safetensors or pt (a state dict; pt for torch.load), pt2 (torch.export), onnx (the extra
            `onnx`), peft (a folder: SHiRA, for tickets that are changes of a pretrained network; the extra
            `pretrained`).
        shape: Of one input, such as 3 32 32; what the file says by default.
        backbone: MODULE:NAME of the network, or of a function that makes it, for all but plain state dicts;
            by default that of the experiment that the ticket file or its run names.
        force: Replace a file that is there already.
        json: Print what was written, for machines.
    """
    form, header = format_of(out, format), io.read_metadata(file)
    names, metadata = _names(header.get("names", []), ticket, all), header.get("facts", {})
    together = all and form == "onnx"
    if form == "peft" and not metadata.get("reference"):
        raise UsageError(
            f"{file} holds no changes of a base network, which is what adapters are: choose another format, "
            "or find tickets with --set reference=theta0"
        )
    end = "" if form == "peft" else f".{form}"
    places = {name: out / (io.file_name(name) + end) if all and not together else out for name in names}
    beside = [adapter_file(out, name) for name in names] if together else []
    parts = [place / part for place in places.values() for part in (FILES if form == "peft" else [""])]
    new(*parts, *beside, force=force, read=[file])
    if together and compact:
        raise UsageError("--all makes one network of all tickets, --compact one of a single ticket")
    tickets: Any = None
    base = x = None
    if form not in STATES or compact or metadata.get("reference"):
        plain = "" if metadata.get("reference") else PLAIN
        base = network(file, metadata, backbone, plain)
        tickets, x = load(file, base), _example(metadata, shape, form)
    if together:
        made = _together(tickets, out, x)
    else:
        of = Exported(file, form, compact, tickets, base, x)
        made = [of.write(name, place) for name, place in places.items()]
    for one in made:
        one |= _known(metadata, one["ticket"])
        if rank := metadata.get("adapters"):
            one["adapters"] = rank
    if not json:
        sys.stderr.write("".join(f"{line}\n" for line in _remarks(metadata, names)))
    say("".join(map(_line, made)), made if all else made[0], json)


def _names(known: Sequence[str], name: str | None, all: bool) -> list[str]:
    """The tickets that are wanted."""
    if all and name is not None:
        raise UsageError("--ticket is one ticket, --all are all of them: give one of the two")
    if all:
        return [*known]
    if name is None and len(known) > 1:
        raise UsageError(f"which ticket? Give --ticket NAME, one of {', '.join(known)}, or --all")
    if name is not None and known and name not in known:
        raise UsageError(str(UnknownTicket(name, known)))
    return [name or (known[0] if known else "")]


@dataclass(frozen=True)
class Exported:
    """Where tickets come from, and what becomes of each; without ``tickets`` from the file alone."""

    file: Path
    form: str
    compact: bool
    tickets: Any
    base: Any
    x: Batch

    def write(self, name: str, out: Path) -> dict[str, Any]:
        """Write one ticket; what was written."""
        made: dict[str, Any] = {"file": str(out), "format": self.form, "ticket": name}
        if self.tickets is None:
            size = write_state(out, state_of(self.file, name), self.form, {"ticket": name})
            return {**made, "bytes": size, "parameters": None}
        if self.form == "peft":
            return made | asdict(write_peft(out, self.tickets, name, self.base, self.x))
        module = _compact(self.tickets, name, self.x) if self.compact else self.tickets.bake(name).eval()
        if self.form in PROGRAMS:
            size = write_program(out, module, self.form, self.x)
        else:
            about = {"ticket": name, "compact": str(self.compact).lower()}
            size = write_state(out, module.state_dict(), self.form, about)
        return {**made, "bytes": size, "parameters": sum(p.numel() for p in module.parameters())}


def _together(tickets: TicketModel, out: Path, x: Batch) -> list[dict[str, Any]]:
    """One ONNX network and an adapter for each ticket."""
    files = write_adapters(out, tickets, x)
    first = {"file": str(out), "format": "onnx", "ticket": tickets.names[0], "bytes": out.stat().st_size}
    return [{**first, "tickets": [*files]}] + [
        {"file": str(file), "format": "onnx_adapter", "ticket": name, "bytes": file.stat().st_size}
        for name, file in files.items()
    ]


def _known(metadata: Mapping[str, Any], ticket: str) -> dict[str, Any]:
    """What who runs a ticket elsewhere has to know: its classes, and what is done before and after."""
    found = {"classes": metadata.get("classes", {}).get(ticket), "scale": metadata.get("scale")}
    found |= {"prepare": known(metadata).prepare, "class_names": metadata.get("class_names")}
    return {name: value for name, value in found.items() if value or name == "classes"}


def _remarks(metadata: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """The same for a reader, a line each."""
    for name in names:
        if classes := _known(metadata, name)["classes"]:
            which = ", ".join(map(str, classes))
            yield f"ticket {name} answers with classes {which}: its other outputs mean nothing"
    if scale := metadata.get("scale"):
        yield f"outputs are standardised: multiply by {scale['deviation']}, add {scale['mean']}"
    if steps := known(metadata).prepare:
        yield f"inputs have to be prepared as in training: {dumps(steps)}"


def _line(made: Mapping[str, Any]) -> str:
    which = "all tickets, by itself" if "tickets" in made else "ticket"
    line = f"{made['file']}: {which} {made['ticket']}, {made['format']}, {made['bytes']:,} bytes"
    if whole := made.get("whole"):
        line += f"; layers that it holds whole: {', '.join(whole)}"
    if made.get("adapters"):
        line += "; dense, as its low-rank change is added to every weight"
    return f"{line}\n"


def _example(metadata: Mapping[str, Any], shape: tuple[int, ...], form: str) -> Batch | None:
    """Inputs like those of training, random: of a shape that is given or known, or of any structure."""
    size, form_of = shape or tuple(metadata.get("shape", ())), metadata.get("probe")
    if any(n < 1 for n in size):
        raise UsageError(f"--shape needs positive numbers: got {' '.join(map(str, size))}")
    if form_of is not None and not shape:
        return probe.inputs(form_of)
    if size:
        return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    if form not in STATES:
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
