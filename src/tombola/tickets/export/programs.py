"""A ticket with its operations: a ``torch.export`` program, or ONNX.

The number of samples stays free. What is written is compared with the network first: ``torch.export`` by
torch, ONNX by onnxruntime. Files appear at once or not at all.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tombola._utils import batch, io
from tombola._utils.batch import Batch
from tombola._utils.errors import TombolaError, UsageError, needs
from tombola._utils.torch_state import in_mode

CLOSE = 1e-5  # largest difference of outputs, over the largest output or 1


@torch.no_grad()
def write_program(path: Path, module: nn.Module, form: str, example: Batch) -> int:
    """Write a network with its operations; returns the bytes.

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
    x = two_rows(example)
    with in_mode(module, training=False):
        outputs = taken(module, x, form)
        if len(alone := tensors_alone(outputs)) < len(outputs):
            module = _TensorsAlone(module).eval()
        content, run = _onnx(module, x, alone) if form == "onnx" else _exported(module, x)
        for inputs in (x, six_rows(x)):
            check_close(form, tensors_of(batch.call(module, inputs)), run(inputs))
    io.write_bytes(path, content)
    return len(content)


class _TensorsAlone(nn.Module):
    """A network whose outputs by name are tensors, without what no other program reads (a cache)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

        @wraps(network.forward)  # exporters read the names of its arguments
        def forward(*x: Any, **inputs: Any) -> Any:
            return tensors_alone(self.network(*x, **inputs))

        self.forward = forward


# -- what all programs have in common -----------------------------------------------------------------------


def two_rows(example: Batch) -> Batch:
    """Two samples of an example of one or more: exporters take sizes of one for fixed."""
    return batch.mapped(lambda t: torch.cat([t] * 2)[:2].contiguous(), batch.plain(example))


def six_rows(x: Batch) -> Batch:
    """Six samples made of two."""
    return batch.mapped(lambda t: torch.cat([t, t.flip(0), t]), x)


def taken(network: nn.Module, x: Batch, form: str) -> Any:
    """Outputs of a network for an example that it may not take, or that may hold no tensor."""
    try:
        outputs = batch.call(network, x)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        shape = list(x.shape[1:]) if isinstance(x, Tensor) else batch.mapped(lambda t: list(t.shape[1:]), x)
        raise UsageError(
            f"the network cannot take a sample of shape {shape} ({reason}): --shape is "
            "that of one sample, without the batch"
        ) from None
    if not tensors_of(outputs):
        raise TombolaError(f"{form} is written for networks that return tensors, and this one returns none")
    return outputs


def tensors_alone(outputs: Any) -> Any:
    """Outputs by name without what are no tensors; others as they are."""
    if not isinstance(outputs, Mapping):
        return outputs
    return {name: part for name, part in outputs.items() if isinstance(part, Tensor)}


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors of outputs of any structure, in their order."""
    return list(batch.tensors(batch.opened(outputs)).values())


def check_close(form: str, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Raise `TombolaError` where outputs differ by more than rounding."""
    if len(found) != len(expected):
        raise TombolaError(f"what {form} computes has {len(found)} outputs, the network {len(expected)}")
    for mine, other in zip(expected, found, strict=True):
        apart = float((other.double() - mine.double()).abs().max()) if other.shape == mine.shape else math.inf
        if not apart <= CLOSE * max(1.0, float(mine.double().abs().max())):
            raise TombolaError(f"what {form} computes differs from the network by {apart:.2g}")


def arguments(x: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that `batch.call` passes on."""
    if isinstance(x, dict):
        return (), x
    return (x if isinstance(x, tuple) else (x,)), {}


def free(x: Any) -> Any:
    """The sizes that stay free: the first of every tensor."""
    samples = torch.export.Dim("batch")
    return batch.mapped(lambda _: {0: samples}, x)


@contextmanager
def failures(what: str, module: nn.Module) -> Iterator[None]:
    """Turn all that an exporter raises into one line, without its insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TombolaError:
        raise
    except Exception as error:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise TombolaError(f"{type(module).__name__} cannot be exported by {what}: {why}") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# -- torch.export -------------------------------------------------------------------------------------------

Program = tuple[bytes, Callable[[Batch], list[Tensor]]]


def _exported(module: nn.Module, x: Batch) -> Program:
    args, named = arguments(x)
    with failures("torch.export", module):
        sizes = free((args, named))
        program = torch.export.export(module, args, named, dynamic_shapes=sizes[1] or sizes[0])
        file = BytesIO()
        torch.export.save(program, file)
        made = program.module()
        return file.getvalue(), lambda inputs: tensors_of(batch.call(made, inputs))


# -- ONNX ---------------------------------------------------------------------------------------------------


def _onnx(module: nn.Module, x: Batch, outputs: Any) -> Program:
    args, named = arguments(x)
    sizes = free((args, named))
    with failures("ONNX", module):
        program = to_onnx(
            module, args, named, sizes[1] or sizes[0], names_of(x, "x"), names_of(outputs, "output")
        )
        content: bytes = program.model_proto.SerializeToString()
        session = opened(content)
    return content, lambda inputs: run(session, inputs)


def names_of(parts: Any, alone: str) -> list[str]:
    """Names of the tensors of inputs or outputs in an ONNX file.

    >>> names_of({"ids": torch.zeros(2), "more": [torch.zeros(2)]}, "x"), names_of((torch.zeros(2),) * 2, "x")
    (['ids', 'more_0'], ['x_0', 'x_1'])
    """
    paths = ["_".join(re.findall(r"\w+", path)) for path in batch.tensors(batch.opened(parts))]
    return [path if path[:1].isalpha() else "_".join(filter(None, (alone, path))) for path in paths]


def to_onnx(
    module: nn.Module,
    args: tuple[Any, ...],
    named: dict[str, Any],
    sizes: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Any:
    """A ``torch.onnx.ONNXProgram``; ``sizes`` say which are free."""
    with needs("onnx", "ONNX files"):
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    names: dict[str, Any] = {"input_names": inputs, "output_names": outputs}
    return torch.onnx.export(
        module, args, kwargs=named, dynamo=True, dynamic_shapes=sizes, verbose=False, **names
    )


def opened(content: bytes) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU, without its talk."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its threads would spin beside torch's
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session: Any, x: Batch, options: Any = None) -> list[Tensor]:
    """Outputs of a session, for inputs in the order in which it takes them."""
    names = [taken.name for taken in session.get_inputs()]
    given = dict(zip(names, (t.numpy() for t in batch.tensors(x).values()), strict=True))
    return [torch.from_numpy(np.asarray(found)) for found in session.run(None, given, options)]
