"""The ticket file: K specialists at about the storage cost of one network.

One safetensors file, never pickle. It holds the shared weights that any ticket keeps (the union), the
masks at one bit per weight and ticket, the dense remainder, the private state, and a header with
hashes of the content, the architecture and theta0. Weights that no ticket keeps are not stored and
come back as zero.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from tombola.coding import decode, encode
from tombola.errors import MaskError, TicketFileError, UnknownTicket
from tombola.layout import Layout
from tombola.masks import MaskSet
from tombola.stage import part

FORMAT = 2  # 1: all masks are plain
_KEY = "tombola"  # of the file's metadata: a hash over all, a space, and the facts as JSON
Private = Mapping[str, Mapping[str, Tensor]]  # per ticket, named tensors
Parts = Mapping[
    str, tuple[Mapping[str, Any], Mapping[str, Tensor]]
]  # a router, a calibration: facts, tensors


# -- any tensors and facts ----------------------------------------------------------------------------


def write(path: Path | str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> int:
    """Write tensors and facts to a safetensors file at once or not at all; returns its size in bytes.

    Equal content gives equal bytes. A full disk leaves the old file as it was.
    """
    content = to_content(tensors, facts)
    write_bytes(Path(path), content)
    return len(content)


def to_content(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """The bytes of the file that `write` writes."""
    plain = {name: t.detach().contiguous().cpu().clone() for name, t in tensors.items()}
    header = json.dumps(dict(facts), sort_keys=True)
    return bytes(to_bytes(plain, metadata={_KEY: f"{_seal(plain, header)} {header}"}))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: a temporary file beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `write`.

    Raises:
        TicketFileError: no such file, not of this kind, truncated, or altered.
    """
    path = Path(path)
    if not path.is_file():
        raise TicketFileError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise TicketFileError(
            f"{path} is truncated or no safetensors file ({error}): copy it again from its source"
        ) from None
    if _KEY not in metadata:
        raise TicketFileError(f"{path} is a safetensors file, but was not written by Tombola")
    seal, _, header = metadata[_KEY].partition(" ")
    if seal != _seal(tensors, header):
        raise TicketFileError(f"{path} was altered since it was written: its content does not match its hash")
    facts: dict[str, Any] = json.loads(header)
    return tensors, facts


def _seal(tensors: Mapping[str, Tensor], header: str) -> str:
    """The hash of everything in a file."""
    return hashlib.sha256(f"{digest(tensors)} {header}".encode()).hexdigest()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().contiguous().cpu()
        sha.update(repr((name, str(t.dtype), tuple(t.shape))).encode())
        sha.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return sha.hexdigest()


# -- tickets ------------------------------------------------------------------------------------------


def architecture(module: nn.Module) -> dict[str, str]:
    """What must agree between two networks: kind of every module, shape and dtype of every tensor."""
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
    facts: Mapping[str, Any],
    parts: Parts | None = None,
    coding: str = "auto",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The content of a ticket file, from what makes up a `tombola.TicketModel`.

    ``parts`` is what was made for these tickets: a router, a calibration. ``coding`` is how masks are
    written (`tombola.coding.encode`).
    """
    weights_N = masks.scope.flatten(dict(backbone.named_parameters())).cpu()
    first = private[masks.names[0]]
    every = {name for name, _ in backbone.named_parameters(remove_duplicate=False)}
    tied = every - {name for name, _ in backbone.named_parameters()}  # second names of shared weights
    elsewhere = {*masks.scope.names, *first, *tied}
    rest = {n: t for n, t in backbone.state_dict().items() if n not in elsewhere}
    coded = encode(masks.masks_KN, coding)
    tensors = {
        "weights": weights_N[masks.union()],
        **coded,
        **{f"rest.{n}": t for n, t in rest.items()},
        **{f"private.{n}": torch.stack([private[k][n] for k in masks.names]) for n in first},
    }
    header = {
        "format": 1 if "masks" in coded else FORMAT,  # plain masks can be read by all versions
        "names": masks.names,
        "scope": {"names": masks.scope.names, "shapes": masks.scope.shapes},
        "architecture": architecture(backbone),
        "facts": dict(facts),
    }
    if parts:
        header["parts"] = {name: dict(known) for name, (known, _) in parts.items()}
        tensors |= {f"part.{name}.{n}": t for name, (_, own) in parts.items() for n, t in own.items()}
    return tensors, header


def unpack(
    path: Path | str, backbone: nn.Module
) -> tuple[nn.Module, MaskSet, dict[str, dict[str, Tensor]], dict[str, Any], Parts]:
    """What makes up a `tombola.TicketModel` from a file, on a copy of ``backbone``; then its parts, if any.

    Raises:
        TicketFileError: the file is missing, truncated, altered, of a newer format, or belongs to
            another architecture (the first difference is named).
    """
    tensors, header = read(path)
    _check(path, header, backbone)
    masks = masks_of(path, tensors, header)
    scope = masks.scope
    weights_N = torch.zeros(scope.size, dtype=tensors["weights"].dtype)
    weights_N[masks.union()] = tensors["weights"]
    backbone = copy.deepcopy(backbone)
    backbone.load_state_dict({**part(tensors, "rest."), **scope.unflatten(weights_N)}, strict=False)
    stacked = part(tensors, "private.")
    private = {name: {n: t[k] for n, t in stacked.items()} for k, name in enumerate(masks.names)}
    parts = {name: (known, part(tensors, f"part.{name}.")) for name, known in header.get("parts", {}).items()}
    return backbone, masks, private, header["facts"], parts


def fingerprint(weights_N: Tensor, masks_KN: Tensor, private: Mapping[str, Tensor]) -> str:
    """A hash of tickets as they act, for what is made for them; weights that none keeps do not count."""
    acting = {f"private.{name}": t.detach().float().cpu() for name, t in private.items()}
    kept = weights_N.detach().float().cpu()[masks_KN.any(0).cpu()]
    return digest({"weights": kept, "masks": masks_KN.cpu(), **acting})


def masks_of(path: Path | str, tensors: dict[str, Tensor], header: dict[str, Any]) -> MaskSet:
    """The masks in the content of a ticket file."""
    scope, names = _layout(header["scope"]), header["names"]
    try:
        return MaskSet.stacked(scope, names, decode(tensors, len(names), scope.size))
    except MaskError as error:
        raise TicketFileError(f"{path}: {error}") from None


def read_mask(path: Path | str, ticket: str) -> Tensor:
    """The mask of one ticket, boolean ``[N]``, reading no more of the file than it needs.

    Of masks coded by counts these are two streams out of K + 1; other codings are read as a whole. The
    mask is checked by itself (CRC-32), not the hash of the file.

    Raises:
        TicketFileError: no such file, not of this kind, or damaged.
        UnknownTicket: the file has no such ticket.
    """
    if not Path(path).is_file():
        raise TicketFileError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_KEY].partition(" ")[2])
            scope, names = _layout(header["scope"]), header["names"]
            if ticket not in names:
                raise UnknownTicket(ticket, names)
            k = names.index(ticket)
            others = {f"masks.{j}" for j in range(len(names)) if j != k}
            needed = {n for n in file.keys() if n.startswith("masks")} - others  # noqa: SIM118
            coded = {name: file.get_tensor(name) for name in needed}
        return decode(coded, len(names), scope.size, only=k)[0]
    except (SafetensorError, KeyError, ValueError, MaskError) as error:
        if isinstance(error, UnknownTicket):
            raise
        raise TicketFileError(f"{path} is damaged, or no ticket file: {error}") from None


def _layout(stored: dict[str, Any]) -> Layout:
    return Layout(tuple(stored["names"]), tuple(tuple(shape) for shape in stored["shapes"]))


def _check(path: Path | str, facts: dict[str, Any], backbone: nn.Module) -> None:
    if "architecture" not in facts:
        raise TicketFileError(f"{path} holds no tickets; it is another file of a run")
    if facts["format"] > FORMAT:
        raise TicketFileError(
            f"{path} has format {facts['format']}, this version reads {FORMAT}: update tombola"
        )
    stored, given = facts["architecture"], architecture(backbone)
    for name in dict.fromkeys([*stored, *given]):
        if stored.get(name) != given.get(name):
            raise TicketFileError(
                f"{path} belongs to another architecture: {name} is {stored.get(name, 'absent')} in the "
                f"file and {given.get(name, 'absent')} in the given backbone"
            )
