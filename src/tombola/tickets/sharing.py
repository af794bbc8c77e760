"""Tickets in a folder or on a hub, as `huggingface_hub` has it: the ticket file, and its card beside it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tombola._utils import hub, io
from tombola._utils.errors import TicketFileError, TombolaError, UsageError, needs
from tombola.tickets.card import About, card_of
from tombola.training.pretrained import again

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel

FILE, CARD = "tickets.safetensors", "README.md"  # the first is a ticket file: hubs know the suffix


def share(
    folder: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], about: About, card: str = ""
) -> Path:
    """Write the content of a ticket file and its card into a folder."""
    if folder.is_file():
        raise TicketFileError(f"{folder} is a file: give a folder")
    if (folder / CARD).exists() and not (folder / FILE).exists():
        raise UsageError(f"{folder} has a {CARD} of its own, which no card replaces: give another folder")
    io.write(folder / FILE, tensors, {**header, "facts": _based(header["facts"], about.base)})
    io.write_bytes(folder / CARD, (card or card_of(folder / FILE, about)).encode())
    return folder


def fetch(where: Path | str, backbone: nn.Module | Path | str | None, revision: str) -> TicketModel:
    """The tickets of a folder or a repository, see `Shared.from_pretrained`."""
    from tombola.tickets.model import load

    file = Path(where).expanduser() / FILE
    if not file.is_file():
        if file.parent.exists():
            raise TicketFileError(f"{where} holds no {FILE}: it was not written by save_pretrained")
        file = hub.fetched(str(where), FILE, revision)
    if not isinstance(backbone, nn.Module):
        backbone = network_of(where, io.read_metadata(file).get("facts", {}), backbone)
    return load(file, backbone)


def push(folder: Path, repo: str, private: bool = False, token: str = "") -> str:
    """Upload a folder that `share` has written; the address."""
    known = io.read_metadata(folder / FILE)["facts"].get("pretrained", {}).get("model", "")
    if Path(known).is_absolute():
        raise UsageError(
            f"the tickets are of a network in {known}, which is on this machine alone: say by which name "
            "others have it (base=, --base)"
        )
    return hub.uploaded(folder, repo, private, token)


def _based(facts: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Facts in which the pretrained network, and a tokenizer from its folder, are known by this name."""
    made, known = dict(facts), facts.get("pretrained")
    if not base or known is None:
        return made
    text = facts.get("input", {}).get("text")
    if text and text["tokenizer"] == known["model"]:
        made["input"] = {**facts["input"], "text": {**text, "tokenizer": base}}
    return {**made, "pretrained": {**known, "model": base}}


def network_of(where: Path | str, facts: Mapping[str, Any], place: Path | str | None = None) -> nn.Module:
    """The network that a file names, pretrained or with whatever weights.

    Args:
        where: the file or its folder, for messages.
        facts: those of the file.
        place: where a pretrained network lies by now.

    Raises:
        TombolaError: the file names none, or one that code of a third party makes, which no file may run.
    """
    if known := facts.get("pretrained"):
        return again(known, place)
    name = facts.get("experiment", "")
    if place is None and name and ":" not in name:
        with needs("lab", f"{where} has the network of the experiment {name}"):
            # By name: the laboratory lies above, and may be absent.
            experiments = import_module("tombola.lab.experiments")
        found: nn.Module = experiments.experiment(name).backbone(torch.Generator())
        return found
    raise TombolaError(
        f"{where} does not say which network its tickets belong to: pass backbone=, the network that they "
        "were found in"
    )
