"""A ticket as a state dict that other programs read, of a plain dense network that needs no Tombola to run.

Files appear at once or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from tombola._utils import io
from tombola._utils.checkpoint import part
from tombola._utils.errors import TombolaError, UnknownTicket, UsageError, unknown
from tombola.masks.layout import Layout
from tombola.masks.low_rank import folded
from tombola.tickets import files

STATES = ("safetensors", "pt")  # state dicts; the others hold the network's operations too
PROGRAMS = ("pt2", "onnx")
FORMATS = (*STATES, *PROGRAMS, "peft")  # the last is a folder


def format_of(path: Path, name: str | None = None) -> str:
    """The format that is named, else that of the suffix of a path; `UsageError` where there is none."""
    found = path.suffix.lstrip(".") if name is None else name
    if found not in FORMATS:
        hint = "; give --format, or a file with one of these suffixes" if name is None else ""
        raise UsageError(unknown("format", found, FORMATS) + hint)
    return found


def state_of(path: Path | str, ticket: str) -> dict[str, Tensor]:
    """A ticket under the backbone's own names: zeros outside the mask, its private tensors in place.

    Raises:
        UnknownTicket, TicketFileError: no such ticket, or the file is missing, damaged, or holds no tickets.
        TombolaError: layers of the network share weights, which the file names once.
    """
    tensors, header, masks = files.opened(path)
    if ticket not in masks.names:
        raise UnknownTicket(ticket, masks.names)
    if header["facts"].get("reference"):
        raise TombolaError(
            f"{path} holds changes of a network: load it with that network, and bake the ticket"
        )
    k = masks.index(ticket)
    own = {name: t[k] for name, t in part(tensors, "private.").items()}
    state = (
        part(tensors, "rest.")
        | masks.scope.unflatten(files.shared_weights(tensors, masks) * masks[ticket])
        | own
    )
    names = [key.removeprefix("tensor ") for key in header["architecture"] if key.startswith("tensor ")]
    if missing := [name for name in names if name not in state]:
        raise TombolaError(f"{', '.join(missing)} shares the weights of another layer: give the network too")
    found = {name: state[name] for name in names}
    return folded(found) if header["facts"].get("adapters") else found


def whole_channels(scope: Layout, mask_N: Tensor) -> float:
    """The share of removed weights in output channels without any weight left; 1 if none is removed."""
    removed = int((~mask_N).count_nonzero())
    if not removed:
        return 1.0
    whole = 0
    for mask in scope.unflatten(mask_N).values():
        sides = [mask.flatten(1), mask.transpose(0, 1).flatten(1)] if mask.dim() > 1 else [mask[:, None]]
        whole += max(int((~rows.any(1)).sum()) * rows.shape[1] for rows in sides)  # transposed ones turn it
    return whole / removed


def write_state(path: Path, state: Mapping[str, Tensor], form: str, metadata: Mapping[str, str]) -> int:
    """Write a state dict, as safetensors or for ``torch.load(weights_only=True)``; returns the bytes.

    Args:
        path: the file; one that is there is replaced.
        state: named tensors.
        form: ``safetensors`` or ``pt``.
        metadata: kept in that of safetensors.

    Raises:
        OSError: it cannot be written, for lack of room too; an older file stays as it was.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
    if form == "safetensors":
        content = bytes(safetensors_bytes(plain, metadata=dict(metadata)))
    else:
        file = BytesIO()
        torch.save(plain, file)
        content = file.getvalue()
    io.write_bytes(path, content)
    return len(content)
