"""Tickets in a folder or on a hub, as `huggingface_hub` has it: the ticket file, and its card beside it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tombola._utils import hub, io
from tombola._utils.errors import TicketFileError, TombolaError, UsageError, needs
from tombola.tickets.card import About, card_of
from tombola.training.pretrained import again

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel

Tickets = Any  # a `TicketModel`, which derives from what is here
FILE, CARD = "tickets.safetensors", "README.md"  # the first is a ticket file: hubs know the suffix


class Shared(nn.Module):
    """How a `tombola.TicketModel` goes into a folder or onto a hub, and comes back."""

    def save_pretrained(self: Tickets, folder: Path | str, *, card: str = "", **about: str) -> Path:
        """Write the ticket file and a model card into a folder.

        Args:
            folder: made if absent; files of a former call are replaced.
            card: the model card; by default it is made of what the file knows.
            about: what it says beside that, fields of `tombola.tickets.card.About` such as ``licence``.
                ``base``, the name on a hub of the pretrained network that the tickets are of, takes the place
                of a folder on this machine in the file as well.
        """
        tensors, header = self.contents()
        return share(Path(folder), tensors, header, About(**{"name": str(folder), **about}), card)

    def push_to_hub(
        self: Tickets, repo: str, *, private: bool = False, token: str = "", card: str = "", **about: str
    ) -> str:
        """Upload what `save_pretrained` writes as a repository ``OWNER/NAME``, made if absent; its address.

        Args:
            repo: its name.
            private: whether a new one is.
            token: who uploads; by default as `huggingface_hub` finds it.
            card, about: as for `save_pretrained`.

        Raises:
            MissingExtra: `huggingface_hub` is not installed.
            UsageError: tickets of a pretrained network that is known by a folder of this machine: pass base=.
            TombolaError: the hub cannot be reached, or refuses.
        """
        with TemporaryDirectory() as place:
            folder = self.save_pretrained(place, card=card, **{"name": repo, **about})
            return push(folder, repo, private, token)

    @classmethod
    def from_pretrained(
        cls: Any, where: Path | str, backbone: nn.Module | Path | str | None = None, *, revision: str = ""
    ) -> TicketModel:
        """Tickets from a folder, or from a repository on a hub.

        Args:
            where: the folder, or ``OWNER/NAME``, which is read from the cache of this machine; nothing is
                downloaded unless ``HF_HUB_OFFLINE=0`` is set.
            backbone: the network, or where the pretrained network lies by now. By default it is the one that
                the file names: a pretrained network, or that of an experiment of Tombola.
            revision: of the repository.

        Raises:
            TicketFileError: there are no tickets, or they belong to another network.
            TombolaError: the file does not name its network, or it is not on this machine.
        """
        from tombola.tickets.model import load

        file = Path(where).expanduser() / FILE
        if not file.is_file():
            if file.parent.exists():
                raise TicketFileError(f"{where} holds no {FILE}: it was not written by save_pretrained")
            file = hub.fetched(str(where), FILE, revision)
        if not isinstance(backbone, nn.Module):
            backbone = network_of(where, io.read(file)[1].get("facts", {}), backbone)
        return load(file, backbone)


def share(
    folder: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], about: About, card: str = ""
) -> Path:
    """Write the content of a ticket file and its card into a folder."""
    if folder.is_file():
        raise UsageError(f"{folder} is a file: give a folder")
    io.write(folder / FILE, tensors, {**header, "facts": _based(header["facts"], about.base)})
    io.write_bytes(folder / CARD, (card or card_of(folder / FILE, about)).encode())
    return folder


def push(folder: Path, repo: str, private: bool = False, token: str = "") -> str:
    """Upload a folder that `share` has written; the address."""
    known = io.read(folder / FILE)[1]["facts"].get("pretrained", {}).get("model", "")
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
