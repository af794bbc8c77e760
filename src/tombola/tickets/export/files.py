"""A ticket as a file that other programs read: a state dict, a ``torch.export`` program, or ONNX.

What is written is a plain dense network: it needs no Tombola to run. Files appear at once or not at all.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from tombola._utils import batch, io
from tombola._utils.batch import Batch
from tombola._utils.checkpoint import part
from tombola._utils.errors import TombolaError, UnknownTicket, UsageError, needs, unknown
from tombola._utils.torch_state import in_mode
from tombola.masks.layout import Layout
from tombola.tickets import files

STATES = ("safetensors", "pt")  # state dicts; the others hold the network's operations too
PROGRAMS = ("pt2", "onnx")
FORMATS = (*STATES, *PROGRAMS)
CLOSE = 1e-5  # largest difference of outputs, over the largest output or 1


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
    k = masks.names.index(ticket)
    own = {name: t[k] for name, t in part(tensors, "private.").items()}
    state = (
        part(tensors, "rest.")
        | masks.scope.unflatten(files.shared_weights(tensors, masks) * masks.masks_KN[k])
        | own
    )
    names = [key.removeprefix("tensor ") for key in header["architecture"] if key.startswith("tensor ")]
    if missing := [name for name in names if name not in state]:
        raise TombolaError(f"{', '.join(missing)} shares the weights of another layer: give the network too")
    return {name: state[name] for name in names}


def whole_channels(scope: Layout, mask_N: Tensor) -> float:
    """The share of removed weights in output channels without any weight left; 1 if none is removed."""
    removed = int((~mask_N).sum())
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


@torch.no_grad()
def write_program(path: Path, module: nn.Module, form: str, example: Batch) -> int:
    """Write a network with its operations; the number of samples stays free. Returns the bytes.

    The outputs of what is written are compared with those of the network first: of ``torch.export`` by
    torch, of ONNX by onnxruntime.

    Args:
        path: the file; one that is there is replaced.
        module: a network on the CPU; its outputs are tensors, or a nest of them.
        form: ``pt2`` (``torch.export.load``) or ``onnx``.
        example: an input, a tensor ``[B, ...]`` or a tuple or dictionary of such; all sizes but B are those
            that the file will take.

    Raises:
        MissingExtra: ONNX without the extra ``onnx``.
        UsageError: the network cannot take the example.
        TombolaError: the network cannot be exported, or what came out computes something else.
        OSError: it cannot be written, for lack of room too; an older file stays as it was.
    """
    x = batch.mapped(lambda t: torch.cat([t] * 2)[:2].contiguous(), batch.plain(example))
    with in_mode(module, training=False):
        try:
            plain = _tensors(outputs := batch.call(module, x))
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            shape = (
                list(x.shape[1:]) if isinstance(x, Tensor) else batch.mapped(lambda t: list(t.shape[1:]), x)
            )
            raise UsageError(
                f"the network cannot take a sample of shape {shape} ({reason}): --shape is "
                "that of one sample, without the batch"
            ) from None
        if isinstance(outputs, Mapping) and not all(isinstance(part, Tensor) for part in outputs.values()):
            module = _TensorsAlone(module).eval()
        if not plain:
            raise TombolaError(
                f"{form} is written for networks that return tensors, and this one returns none"
            )
        content, run = (_onnx if form == "onnx" else _exported)(module, x)
        for inputs in (x, batch.mapped(lambda t: torch.cat([t, t.flip(0), t]), x)):
            _check(form, _tensors(batch.call(module, inputs)), run(inputs))
    io.write_bytes(path, content)
    return len(content)


class _TensorsAlone(nn.Module):
    """A network whose outputs by name are tensors, without what no other program reads (a cache)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

        @wraps(network.forward)  # exporters read the names of its arguments
        def forward(*x: Any, **inputs: Any) -> dict[str, Tensor]:
            found = self.network(*x, **inputs)
            return {name: part for name, part in found.items() if isinstance(part, Tensor)}

        self.forward = forward


def _tensors(outputs: Any) -> list[Tensor]:
    return list(batch.tensors(batch.opened(outputs)).values())


def _check(form: str, expected: list[Tensor], found: list[Tensor]) -> None:
    """Raise `TombolaError` where outputs differ by more than rounding."""
    if len(found) != len(expected):
        raise TombolaError(f"what {form} computes has {len(found)} outputs, the network {len(expected)}")
    for mine, other in zip(expected, found, strict=True):
        apart = float((other.double() - mine.double()).abs().max()) if other.shape == mine.shape else math.inf
        if not apart <= CLOSE * max(1.0, float(mine.double().abs().max())):
            raise TombolaError(f"what {form} computes differs from the network by {apart:.2g}")


Program = tuple[bytes, Callable[[Batch], list[Tensor]]]


def _arguments(x: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Those that `batch.call` passes on."""
    if isinstance(x, dict):
        return (), x
    return (x if isinstance(x, tuple) else (x,)), {}


def _free(x: Batch) -> Any:
    """The sizes that stay free: the first of every tensor."""
    samples = torch.export.Dim("batch")
    args, named = batch.mapped(lambda _: {0: samples}, _arguments(x))
    return named or args


def _exported(module: nn.Module, x: Batch) -> Program:
    args, named = _arguments(x)
    with _failures("torch.export", module):
        program = torch.export.export(module, args, named, dynamic_shapes=_free(x))
        file = BytesIO()
        torch.export.save(program, file)
        made = program.module()
        return file.getvalue(), lambda inputs: _tensors(batch.call(made, inputs))


def _onnx(module: nn.Module, x: Batch) -> Program:
    with needs("onnx", "ONNX files"):
        import onnxruntime
        import onnxscript  # noqa: F401
    args, named = _arguments(x)
    with _failures("ONNX", module):
        how: dict[str, Any] = {"dynamo": True, "dynamic_shapes": _free(x), "verbose": False}
        program = torch.onnx.export(module, args, kwargs=named, **how)
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # its threads would spin beside torch's
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Batch) -> list[Tensor]:
        given = dict(zip(names, (t.numpy() for t in batch.tensors(inputs).values()), strict=True))
        return [torch.from_numpy(np.asarray(found)) for found in session.run(None, given)]

    return content, run


@contextmanager
def _failures(what: str, module: nn.Module) -> Iterator[None]:
    """Turn all that an exporter raises into one line, without its insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise TombolaError(f"{type(module).__name__} cannot be exported by {what}: {why}") from None
    finally:
        logger.setLevel(level)
