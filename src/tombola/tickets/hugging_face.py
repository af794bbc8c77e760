"""What the libraries of Hugging Face ask of a network: the trainer of `transformers`, and hubs.

The trainer reads attributes off a network before it trains it. Each is the backbone's, and missing where the
backbone has none. Nothing here runs the backbone, which would be without masks: ``generate`` runs a ticket
(`tombola.tickets.generation`). What goes to hubs is made in `tombola.tickets.sharing`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from tombola._utils.sharded import writes

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel

Tickets = Any  # a `TicketModel`, which derives from what is here


class Introspected(nn.Module):
    """A module that answers for its backbone.

    >>> class Tickets(Introspected):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.backbone = nn.Linear(2, 1)
    >>> hasattr(Tickets(), "config"), Tickets().accepts_loss_kwargs
    (False, False)
    """

    backbone: nn.Module

    @property
    def config(self) -> Any:
        """The backbone's configuration."""
        return self.backbone.config

    @property
    def pretrained_from(self) -> Any:
        """Where `tombola.from_pretrained` has the backbone from, which a file says."""
        return self.backbone.pretrained_from

    @property
    def main_input_name(self) -> Any:
        """The name of the input whose size is counted."""
        return self.backbone.main_input_name

    @property
    def loss_type(self) -> Any:
        """The kind of loss, by which targets are counted."""
        return self.backbone.loss_type

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the loss divides by a number of targets that it is told, not by that of its batch."""
        if hasattr(self.backbone, "accepts_loss_kwargs"):
            return bool(self.backbone.accepts_loss_kwargs)
        kinds = [p.kind for p in signature(self.backbone.forward).parameters.values()]
        return Parameter.VAR_KEYWORD in kinds

    @property
    def generate(self) -> Callable[..., Any]:
        """Text by a ticket for each request: `tombola.tickets.generation.generate` of these tickets."""
        from tombola.tickets.generation import generate

        _ = self.backbone.generate
        return partial(generate, self)  # type: ignore[arg-type]

    @property
    def activation_checkpointing_enable(self) -> Callable[..., Any]:
        """The method that has activations computed again in the backward pass."""
        return self.backbone.activation_checkpointing_enable  # type: ignore[return-value]

    @property
    def gradient_checkpointing_enable(self) -> Callable[..., Any]:
        """The former name of that method."""
        return self.backbone.gradient_checkpointing_enable  # type: ignore[return-value]


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
        from tombola.tickets.sharing import About, share

        tensors, header = self.contents()
        if writes(self):
            share(Path(folder), tensors, header, About(**{"name": str(folder), **about}), card)
        return Path(folder)

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
        from tombola.tickets.sharing import push

        with TemporaryDirectory() as place:
            folder = self.save_pretrained(place, card=card, **{"name": repo, **about})
            return push(folder, repo, private, token) if writes(self) else repo

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
        from tombola.tickets.sharing import fetch

        return fetch(where, backbone, revision)
