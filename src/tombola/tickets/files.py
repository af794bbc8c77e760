"""The ticket file: K specialists at about the storage cost of one network.

One safetensors file, never pickle: the shared weights that any ticket keeps (the union), masks, the dense
remainder, private state, and a header with hashes of the content, the architecture and theta0. Weights that
no ticket keeps are not stored and come back as zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.checkpoint import part
from tombola._utils.errors import MaskError, TicketFileError
from tombola._utils.io import read
from tombola._utils.replica import copied
from tombola.masks.codec import decode, encode
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet

FORMAT = 2  # 1: all masks are plain
Private = Mapping[str, Mapping[str, Tensor]]  # per ticket, named tensors
# A router, a calibration: what JSON can hold, and tensors.
Parts = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]


def architecture(module: nn.Module) -> dict[str, str]:
    """Kind of every module, shape and dtype of every tensor: all that must agree between two networks."""
    kinds = {
        f"module {name or '(root)'}": re.sub(r" at 0x[0-9a-f]+", "", f"{type(m).__name__}({m.extra_repr()})")
        for name, m in module.named_modules()
    }
    state = {f"tensor {n}": f"{t.dtype} {tuple(t.shape)}" for n, t in module.state_dict().items()}
    return kinds | state


def pack(
    backbone: nn.Module,
    masks: MaskSet,
    private: Private,
    metadata: Mapping[str, Any],
    parts: Parts | None = None,
    coding: str = "auto",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a ticket file; ``coding`` is that of `tombola.masks.codec.encode`."""
    weights_N = masks.scope.flatten(dict(backbone.named_parameters())).cpu()
    first = private[masks.names[0]]
    every = {name for name, _ in backbone.named_parameters(remove_duplicate=False)}
    tied = every - {name for name, _ in backbone.named_parameters()}  # second names of shared weights
    elsewhere = {*masks.scope.names, *first, *tied}
    shared = {n: t for n, t in backbone.state_dict().items() if n not in elsewhere}
    coded = encode(masks.masks_KN, coding)
    tensors = {
        "weights": weights_N[masks.union()],
        **coded,
        **{f"rest.{n}": t for n, t in shared.items()},
        **{f"private.{n}": torch.stack([private[k][n] for k in masks.names]) for n in first},
    }
    header = {
        "format": 1 if "masks" in coded else FORMAT,  # plain masks can be read by all versions
        "names": masks.names,
        "scope": {"names": masks.scope.names, "shapes": masks.scope.shapes},
        "architecture": architecture(backbone),
        "facts": dict(metadata),
    }
    if parts:
        header["parts"] = {name: dict(known) for name, (known, _) in parts.items()}
        tensors |= {f"part.{name}.{n}": t for name, (_, own) in parts.items() for n, t in own.items()}
    return tensors, header


def unpack(
    path: Path | str, backbone: nn.Module
) -> tuple[nn.Module, MaskSet, dict[str, dict[str, Tensor]], dict[str, Any], Parts]:
    """The parts of a `tombola.TicketModel` from a file, on a copy of a ``backbone`` like it."""
    tensors, header, masks = opened(path)
    stored, given = header["architecture"], architecture(backbone)
    for name in dict.fromkeys([*stored, *given]):
        if stored.get(name) != given.get(name):
            raise TicketFileError(
                f"{path} belongs to another architecture: {name} is {stored.get(name, 'absent')} in the "
                f"file and {given.get(name, 'absent')} in the given backbone"
            )
    backbone = copied(backbone)
    weights = masks.scope.unflatten(shared_weights(tensors, masks))
    backbone.load_state_dict({**part(tensors, "rest."), **weights}, strict=False)
    stacked = part(tensors, "private.")
    private = {name: {n: t[k] for n, t in stacked.items()} for k, name in enumerate(masks.names)}
    parts = {name: (known, part(tensors, f"part.{name}.")) for name, known in header.get("parts", {}).items()}
    return backbone, masks, private, header["facts"], parts


def opened(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any], MaskSet]:
    """The content of a ticket file, its header and masks; a `TicketFileError` where it cannot be read."""
    tensors, header = read(path)
    if "architecture" not in header:
        raise TicketFileError(f"{path} holds no tickets; it is another file of a run")
    if header["format"] > FORMAT:
        raise TicketFileError(
            f"{path} has format {header['format']}, this version reads {FORMAT}: update tombola"
        )
    stored, names = header["scope"], header["names"]
    scope = Layout(tuple(stored["names"]), tuple(map(tuple, stored["shapes"])))
    try:
        return tensors, header, MaskSet.stacked(scope, names, decode(tensors, len(names), scope.size))
    except MaskError as error:
        raise TicketFileError(f"{path}: {error}") from None


def shared_weights(tensors: dict[str, Tensor], masks: MaskSet) -> Tensor:
    """The weights ``[N]`` in the content of a ticket file, zero where no ticket keeps any."""
    weights_N = torch.zeros(masks.scope.size, dtype=tensors["weights"].dtype)
    weights_N[masks.union()] = tensors["weights"]
    return weights_N
