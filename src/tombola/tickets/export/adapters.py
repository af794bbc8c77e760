"""All tickets as one ONNX network, and an adapter file for each, which ONNX Runtime swaps per request.

Masks and private tensors are inputs of the network that have a value: that of the first ticket. An adapter
holds what another ticket has in their place, where it differs. A mask is a byte for each weight: to unpack
bits at every run took ten times as long as the product.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tombola._utils import io
from tombola._utils.batch import Batch
from tombola._utils.errors import needs
from tombola._utils.torch_state import in_mode
from tombola.masks.layout import Layout
from tombola.masks.reference import original
from tombola.tickets.export import programs
from tombola.tickets.model import TicketModel

SUFFIX = ".onnx_adapter"


@torch.no_grad()
def write_adapters(path: Path, tickets: TicketModel, example: Batch) -> dict[str, Path]:
    """Write all tickets as one ONNX network, and beside it a file for each, ``STEM.TICKET.onnx_adapter``.

    The network by itself is the first ticket; under another's adapter (``RunOptions.add_active_adapter``,
    ONNX Runtime 1.20) it is that one. Every ticket is compared with what is written before it is.

    Args:
        path: the file of the network; those that are there are replaced.
        tickets: on the CPU.
        example: an input, as for `tombola.tickets.export.write_program`.

    Returns:
        The files of the adapters, by ticket. They say the ``model_version`` of their network.

    Raises:
        MissingExtra: the extra ``onnx`` is not installed.
        UsageError, TombolaError, OSError: as `tombola.tickets.export.write_program`.
    """
    with needs("onnx", "ONNX files"):
        from onnxruntime import RunOptions
    x, held = programs.two_rows(example), {name: _held(tickets, name) for name in tickets.names}
    first = held[tickets.names[0]]
    with in_mode(tickets, training=False), TemporaryDirectory() as place:
        content, version = _network(tickets, x, first)
        session = programs.opened(content)
        used = [value.name for value in session.get_overridable_initializers()]
        files = {name: Path(place, adapter_file(path, name).name) for name in held}
        for name, own in held.items():
            _write(files[name], {n: own[n] for n in used if not torch.equal(own[n], first[n])}, version)
            adapter, options = _loaded(files[name]), RunOptions()
            options.add_active_adapter(adapter)
            for inputs in (x, programs.six_rows(x)):
                expected = programs.tensors_of(programs.tensors_alone(tickets(inputs, ticket=name)))
                programs.check_close("onnx", expected, programs.run(session, inputs, options))
        contents = {file.name: file.read_bytes() for file in files.values()}
    for name, written in contents.items():
        io.write_bytes(path.parent / name, written)
    io.write_bytes(path, content)
    return {name: path.parent / file.name for name, file in files.items()}


def adapter_file(path: Path, ticket: str) -> Path:
    """The adapter of a ticket beside the file of the network."""
    return path.with_name(f"{path.stem}.{io.file_name(ticket)}{SUFFIX}")


def _network(tickets: TicketModel, x: Batch, first: dict[str, Tensor]) -> tuple[bytes, int]:
    """The ONNX network in which a ticket can be overridden, and its version."""
    outputs = programs.taken(tickets.bake(tickets.names[0]).eval(), x, "onnx")
    inputs = [*programs.names_of(x, "x"), *first]
    given = programs.names_of(programs.tensors_alone(outputs), "output")
    sizes = {"x": programs.free(x), "held": dict.fromkeys(first)}
    network = Ticketed(tickets.backbone, tickets.scope).eval()
    with programs.failures("ONNX", tickets.backbone):
        program = programs.to_onnx(network, (), {"x": x, "held": first}, sizes, inputs, given)
        version = _overridable(program.model, first, tickets.names)
        return program.model_proto.SerializeToString(), version


class Ticketed(nn.Module):
    """A network that is called with the masks and private tensors of a ticket."""

    def __init__(self, backbone: nn.Module, scope: Layout) -> None:
        super().__init__()
        self.backbone, self.names = backbone, scope.names

    def forward(self, x: Batch, held: dict[str, Tensor]) -> Any:
        """Outputs, those by name without what are no tensors."""
        weights = dict(self.backbone.named_parameters())
        masks = {name: held[f"mask.{original(name)}"] for name in self.names}
        named = {name: weights[name] * mask.to(weights[name].dtype) for name, mask in masks.items()}
        named |= {name.removeprefix("own."): t for name, t in held.items() if name.startswith("own.")}
        return programs.tensors_alone(functional_call(self.backbone, named, *programs.arguments(x)))


def _held(tickets: TicketModel, name: str) -> dict[str, Tensor]:
    """The mask of every weight in scope, uint8, and the private tensors of a ticket."""
    masks = tickets.scope.unflatten(tickets[name].to(torch.uint8))
    own = tickets.private_state(name)
    return {f"mask.{original(n)}": t for n, t in masks.items()} | {f"own.{n}": t for n, t in own.items()}


def _overridable(model: Any, first: Mapping[str, Tensor], names: tuple[str, ...]) -> int:
    """Give the inputs of a model of ``onnx_ir`` that are of a ticket their value; the model's version."""
    import onnx_ir

    for value in [value for value in model.graph.inputs if value.name in first]:
        if value.uses():
            value.const_value = onnx_ir.tensor(first[value.name].numpy(), name=value.name)
            model.graph.initializers[value.name] = value
        else:  # what evaluation does not read: batches that a norm counted
            model.graph.inputs.remove(value)
    model.metadata_props["tickets"] = json.dumps(names)
    whole = onnx_ir.to_proto(model).SerializeToString()
    version = model.model_version = int(hashlib.sha256(whole).hexdigest()[:7], 16)
    return version


def _loaded(file: Path) -> Any:
    """An adapter; options of a run that name it do not keep it alive."""
    from onnxruntime import LoraAdapter

    adapter = LoraAdapter()
    adapter.Load(str(file))
    return adapter


def _write(path: Path, held: Mapping[str, Tensor], version: int) -> None:
    from onnxruntime import AdapterFormat, OrtValue

    adapter = AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(version)
    adapter.set_parameters({n: OrtValue.ortvalue_from_numpy(t.contiguous().numpy()) for n, t in held.items()})
    adapter.export_adapter(str(path))
