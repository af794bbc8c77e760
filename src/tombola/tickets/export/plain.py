"""One ticket of a file as a state dict, without the network; and whether its zeros are whole channels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tombola._utils import io
from tombola._utils.checkpoint import part
from tombola._utils.errors import TicketFileError, TombolaError, UnknownTicket
from tombola.masks.layout import Layout
from tombola.tickets import files


def state_of(path: Path | str, ticket: str) -> dict[str, Tensor]:
    """A ticket under the backbone's own names: zeros outside the mask, its private tensors in place.

    Raises:
        UnknownTicket: the file has no such ticket.
        TicketFileError: it is missing, damaged, or holds no tickets.
        TombolaError: layers of the network share weights, which the file names once.
    """
    tensors, header = io.read(path)
    if "architecture" not in header:
        raise TicketFileError(f"{path} holds no tickets; it is another file of a run")
    masks = files.masks_of(path, tensors, header)
    if ticket not in masks.names:
        raise UnknownTicket(ticket, masks.names)
    weights_N = torch.zeros(masks.scope.size, dtype=tensors["weights"].dtype)
    weights_N[masks.union()] = tensors["weights"]
    k = masks.names.index(ticket)
    own = {name: t[k] for name, t in part(tensors, "private.").items()}
    state = part(tensors, "rest.") | masks.scope.unflatten(weights_N * masks.masks_KN[k]) | own
    names = [key.removeprefix("tensor ") for key in header["architecture"] if key.startswith("tensor ")]
    if missing := [name for name in names if name not in state]:
        raise TombolaError(f"{', '.join(missing)} shares the weights of another layer: give the network too")
    return {name: state[name] for name in names}


def whole_channels(scope: Layout, mask_N: Tensor) -> float:
    """The share of removed weights that lie in output channels without any weight left; 1 if none is removed.

    >>> scope = Layout(("w",), ((3, 2),))
    >>> whole_channels(scope, torch.tensor([[1, 1], [0, 0], [0, 1]]).flatten() > 0)
    0.6666666666666666
    """
    removed = int((~mask_N).sum())
    if not removed:
        return 1.0
    whole = 0
    for mask in scope.unflatten(mask_N).values():
        sides = [mask.flatten(1), mask.transpose(0, 1).flatten(1)] if mask.dim() > 1 else [mask[:, None]]
        whole += max(int((~rows.any(1)).sum()) * rows.shape[1] for rows in sides)  # transposed ones turn it
    return whole / removed
