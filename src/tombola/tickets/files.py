"""The ticket file: K specialists at about the storage cost of one network.

One safetensors file, never pickle: the shared weights that any ticket keeps (the union), masks, the dense
remainder, private state, what a ticket computes on a probe, and a header with hashes of the content, the
architecture and theta0. Weights that no ticket keeps are not stored and come back as zero. Where tickets are
changes of a base network, nothing of it is stored, and what stayed as it was there is known by its hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils import io
from tombola._utils.checkpoint import part
from tombola._utils.errors import MaskError, ScopeError, TicketFileError
from tombola._utils.io import read
from tombola._utils.replica import copied
from tombola._utils.torch_state import plain_name, unwrapped
from tombola.masks import codec
from tombola.masks.codec import decode
from tombola.masks.layout import Layout
from tombola.masks.low_rank import adapter_names, with_adapters
from tombola.masks.maskset import MaskSet
from tombola.masks.reference import digest, from_reference, original, references, unchanged
from tombola.tickets import schema

FORMAT = 4  # the newest; older versions read files of less
_FORMATS = {"masks": 1, "masks.patterns": 2}  # by what holds the masks; other codings are 3
REMEDY = "save the tickets again, or take another copy; tombola resume writes those of a run again"
_RATE = re.compile(r"^(\w*Dropout\w*)\(.*")
Private = Mapping[str, Mapping[str, Tensor]]  # per ticket, named tensors
# A router, a calibration: what JSON can hold, and tensors.
Parts = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]


def architecture(module: nn.Module) -> dict[str, str]:
    """Kind of every module, shape and dtype of every tensor, by the names that they have uncompiled."""
    kinds = {
        f"module {name or '(root)'}": re.sub(r" at 0x[0-9a-f]+", "", f"{type(m).__name__}({m.extra_repr()})")
        for name, m in _plainly(dict(module.named_modules())).items()
    }
    state = {f"tensor {n}": f"{t.dtype} {tuple(t.shape)}" for n, t in module.state_dict().items()}
    return kinds | _plainly(state)


def _plainly(named: Mapping[str, Any]) -> dict[str, Any]:
    return {
        plain_name(name): value for name, value in named.items()
    }  # of a wrapper and the wrapped, the latter


def check_architecture(
    path: Path | str, header: Mapping[str, Any], backbone: nn.Module, probed: bool
) -> None:
    """Raise `TicketFileError` where a network has other tensors than that of the file.

    Without a probe (`tombola.tickets.probe`) its modules must print alike as well, but for rates of dropout.
    """
    both = header["architecture"], architecture(backbone)
    for kind in ("tensor ",) if probed else ("tensor ", "module "):
        for name in [n for n in dict.fromkeys([*both[0], *both[1]]) if n.startswith(kind)]:
            stored, given = (known.get(name, "absent") for known in both)
            if _RATE.sub(r"\1", stored) != _RATE.sub(r"\1", given):
                kinds = [known.partition(" ") for known in (stored, given)]
                if kind == "tensor " and kinds[0][2] == kinds[1][2] and kinds[0][2]:
                    of, mine = (known[0].removeprefix("torch.") for known in kinds)
                    raise TicketFileError(
                        f"{path} is of a network in {of}, the given backbone is in {mine} ({name}): pass "
                        f"backbone.to(torch.{of}), or load it with dtype={of!r}"
                    )
                raise TicketFileError(
                    f"{path} belongs to another architecture: {name} is {stored} in the file and {given} in "
                    "the given backbone"
                )


def pack(
    backbone: nn.Module,
    masks: MaskSet,
    private: Private,
    metadata: Mapping[str, Any],
    parts: Parts | None = None,
    coding: str = "auto",
    outputs: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a ticket file.

    ``coding`` is that of `tombola.masks.codec.encode`, ``outputs`` are those of `tombola.tickets.probe`.
    """
    weights_N = masks.scope.flatten(dict(backbone.named_parameters())).cpu()
    first = private[masks.names[0]]
    every = {name for name, _ in backbone.named_parameters(remove_duplicate=False)}
    tied = every - {name for name, _ in backbone.named_parameters()}  # second names of shared weights
    elsewhere = {*masks.scope.names, *first, *tied}
    base = {n: known for n, known in unchanged(backbone).items() if n not in {*map(plain_name, elsewhere)}}
    state = {n: t for n, t in backbone.state_dict().items() if n not in elsewhere}
    shared = {n: t for n, t in state.items() if plain_name(n) not in base}
    plain = coding == "plain" or (coding == "auto" and not codec.coded(len(masks), masks.scope.size))
    coded = {"masks": masks.pack()} if plain else codec.encode(masks.masks_KN, coding)
    tensors = {
        "weights": weights_N[masks.union()],
        **coded,
        **{f"rest.{plain_name(n)}": t for n, t in shared.items()},
        **{f"private.{plain_name(n)}": torch.stack([private[k][n] for k in masks.names]) for n in first},
        **{f"probe.{n}": t for n, t in (outputs or {}).items()},
    }
    header = {
        "format": FORMAT if base else next((_FORMATS[name] for name in coded if name in _FORMATS), 3),
        "names": masks.names,
        "scope": {"names": [*map(plain_name, masks.scope.names)], "shapes": masks.scope.shapes},
        "architecture": architecture(backbone),
        "facts": dict(metadata),
    }
    if base:
        header["base"] = base
    if parts:
        header["parts"] = {name: dict(known) for name, (known, _) in parts.items()}
        tensors |= {f"part.{name}.{n}": t for name, (_, own) in parts.items() for n, t in own.items()}
    return tensors, header


def unpack(
    path: Path | str, backbone: nn.Module
) -> tuple[nn.Module, MaskSet, dict[str, dict[str, Tensor]], dict[str, Any], Parts, dict[str, Tensor]]:
    """The parts of a `tombola.TicketModel` from a file, on a copy of a ``backbone`` like it; outputs last."""
    tensors, header, masks = opened(path)
    outputs = part(tensors, "probe.")
    backbone = _parametrized(path, header, backbone)
    check_architecture(path, header, backbone, bool(outputs))
    backbone = unwrapped(copied(backbone))
    _check_base(path, header, backbone)
    weights = masks.scope.unflatten(shared_weights(tensors, masks))
    stacked = part(tensors, "private.")
    found = backbone.load_state_dict({**part(tensors, "rest."), **weights}, strict=False)
    firsts = {name for name, _ in [*backbone.named_parameters(), *backbone.named_buffers()]}
    held = firsts - stacked.keys() - header.get("base", {}).keys()
    _check(path, (name for name in found.missing_keys if name in held))
    private = {name: {n: t[k] for n, t in stacked.items()} for k, name in enumerate(masks.names)}
    parts = {name: (known, part(tensors, f"part.{name}.")) for name, known in header.get("parts", {}).items()}
    return backbone, masks, private, header["facts"], parts, outputs


def _parametrized(path: Path | str, header: Mapping[str, Any], backbone: nn.Module) -> nn.Module:
    """The network with the reference that the tickets of a file are changes of, and with their adapters."""
    facts, names = header["facts"], [*map(original, header["scope"]["names"])]
    try:
        if facts.get("reference") and not references(backbone):
            backbone = from_reference(unwrapped(backbone), names)
        if facts.get("adapters") and not adapter_names(backbone):
            backbone = with_adapters(unwrapped(backbone), names, facts["adapters"])
    except (ScopeError, AttributeError) as error:
        raise TicketFileError(f"{path} belongs to another architecture: {error}") from None
    return backbone


def _check_base(path: Path | str, header: Mapping[str, Any], backbone: nn.Module) -> None:
    """Raise `TicketFileError` where the weights that the file leaves to its base are others."""
    parameters, base = dict(backbone.named_parameters()), header.get("base", {})
    _check(path, (name for name in base if name not in parameters))
    wrong = [name for name, known in base.items() if io.digest({"": parameters[name]}) != known]
    reference = header["facts"].get("reference")
    if (reference and digest(backbone) != reference) or wrong:
        raise TicketFileError(
            f"{path} holds changes of another network than the given one, whose weights differ: pass the "
            f"network that they were made from{_named(header)}, with its pretrained weights"
        )


def _named(header: Mapping[str, Any]) -> str:
    """Where the base of a file is from, if the file says."""
    known = header["facts"].get("pretrained", {}).get("model")
    return f" ({known})" if known else ""


def opened(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any], MaskSet]:
    """The content of a ticket file, its header and masks; a `TicketFileError` where it cannot be read."""
    tensors, header = read(path)
    if "architecture" not in header:
        raise TicketFileError(f"{path} holds no tickets; it is another file of a run")
    if not isinstance(known := header.get("format"), int) or known > FORMAT:
        raise TicketFileError(f"{path} has format {known}, this version reads {FORMAT}: update tombola")
    _check(path, schema.faults(header))
    stored, names = header["scope"], header["names"]
    scope = Layout(tuple(stored["names"]), tuple(map(tuple, stored["shapes"])))
    try:
        if "masks" in tensors:
            masks = MaskSet.unpack(scope, names, tensors["masks"])
        else:
            masks = MaskSet.stacked(scope, names, decode(tensors, len(names), scope.size))
    except MaskError as error:
        raise TicketFileError(f"{path}: {error}") from None
    _check(path, schema.tensor_faults(header, tensors, int(masks.union().count_nonzero())))
    return tensors, header, masks


def _check(path: Path | str, faults: Iterator[str]) -> None:
    if (wrong := next(faults, None)) is not None:
        raise TicketFileError(f"{path} was not written like this by Tombola ({wrong}): {REMEDY}")


def shared_weights(tensors: dict[str, Tensor], masks: MaskSet) -> Tensor:
    """The weights ``[N]`` in the content of a ticket file, zero where no ticket keeps any."""
    weights_N = torch.zeros(masks.scope.size, dtype=tensors["weights"].dtype)
    weights_N[masks.union()] = tensors["weights"]
    return weights_N
