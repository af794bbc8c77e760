"""The attributes that the trainer of `transformers` reads off a network before it trains it.

Each is the backbone's, and missing where the backbone has none. Nothing here runs the backbone, which would
be without masks: ``generate`` runs a ticket (`tombola.tickets.generation`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any

from torch import nn


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
