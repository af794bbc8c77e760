"""A ticket of the change of a pretrained network as an adapter of `peft`: SHiRA (arXiv 2406.13175).

SHiRA holds single changes of the weights of ``nn.Linear`` layers, 12 bytes each: in a layer of m x n as many
as LoRA of one rank for all layers would have, r (m + n); what is missing to that number are zeros. All else
that a ticket changes (an output layer, norms, layers whose bias is changed too) is stored as whole layers
beside it, ``modules_to_save``.
"""

from __future__ import annotations

import math
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils import batch, io
from tombola._utils.batch import Batch
from tombola._utils.errors import TombolaError, needs
from tombola._utils.replica import copied
from tombola.masks.reference import references
from tombola.tickets.export import programs
from tombola.tickets.model import TicketModel

BYTES = 4 + 2 * 4  # of a change: float32, and its row and column as int32

FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Adapter:
    """What was written: its bytes, the layers of which it holds single changes, and those it holds whole."""

    bytes: int
    sparse: tuple[str, ...]
    whole: tuple[str, ...]


@torch.no_grad()
def write_peft(folder: Path, tickets: TicketModel, ticket: str, base: nn.Module, example: Batch) -> Adapter:
    """Write a ticket as a folder for ``peft.PeftModel.from_pretrained(base, folder)``.

    It is read again and compared with the ticket before it is given out.

    Args:
        folder: files of an adapter that are in it are replaced.
        tickets: of a change (``reference="theta0"``, `tombola.merge`), on the CPU.
        ticket: the name of one.
        base: the network that they are changes of.
        example: an input, as for `tombola.tickets.export.write_program`.

    Raises:
        MissingExtra: `peft` is not installed.
        UnknownTicket: no ticket has this name.
        TombolaError: an adapter cannot hold what the ticket changes, or one that was read again
            computes something else.
        OSError: it cannot be written.
    """
    with needs("pretrained", "adapters of peft"):
        import peft
    if not references(tickets.backbone):
        raise TombolaError(
            "an adapter holds the change of a base network, and these tickets are no changes: find them with "
            "reference='theta0', or export a plain network"
        )
    module, base = tickets.bake(ticket).eval(), copied(base).eval()
    rank, sparse, whole = _plan(ticket, module, base)
    changes = {n: module.get_parameter(w := f"{n}.weight") - base.get_parameter(w) for n in sparse}
    config = peft.ShiraConfig(
        r=rank,
        target_modules="|".join(map(re.escape, sparse)),
        modules_to_save=whole or None,
        base_model_name_or_path=tickets.metadata.get("pretrained", {}).get("model"),
    )
    adapted = copied(base)
    layers = {id(adapted.get_submodule(name)): change for name, change in changes.items()}
    config.mask_fn = lambda layer, r, **_: _largest(layers[id(layer)], r)
    x = programs.two_rows(example)
    with TemporaryDirectory() as place, programs.failures("peft", module):
        model = peft.get_peft_model(adapted, config)
        _fill(model.base_model.model, module, changes)
        model.save_pretrained(place, save_embedding_layers=False)
        again = peft.PeftModel.from_pretrained(copied(base), place).eval()
        expected, found = (programs.tensors_of(batch.call(net, x)) for net in (module, again))
        programs.check_close("peft", expected, found)
        made = {name: Path(place, name).read_bytes() for name in FILES}
    for name, content in made.items():
        io.write_bytes(folder / name, content)
    return Adapter(sum(map(len, made.values())), tuple(sparse), tuple(whole))


def _plan(ticket: str, module: nn.Module, base: nn.Module) -> tuple[int, list[str], list[str]]:
    """The rank, the layers of which single changes are held, and those that are held whole."""
    changed = _changed(module, base)
    rank, sparse = _rank(changed, module, base)
    if not sparse:
        raise TombolaError(
            f"SHiRA holds a few changes of linear layers whose biases stay, and ticket {ticket!r} changes no "
            "layer like that: freeze biases in training (requires_grad_(False)), remove more, or export a "
            "plain network"
        )
    whole = [name for name in changed if name not in sparse]
    for name in whole:  # peft knows them by the end of their names
        others = [n for n, _ in base.named_modules() if n != name and n.endswith(name)]
        others += [n for n in sparse if re.match(rf"(^|.*\.){name}($|\..*)", n)]
        if others:
            raise TombolaError(
                f"peft takes the layer {others[0]} for {name}, by its name: export a plain network"
            )
    return rank, sparse, whole


def _changed(module: nn.Module, base: nn.Module) -> dict[str, set[str]]:
    """The layers that differ from those of the base, with the names of their tensors that do.

    A layer that holds others which differ is one of them in whole.
    """
    before, found = base.state_dict(), defaultdict[str, set[str]](set)
    for name, tensor in module.state_dict().items():
        if not torch.equal(tensor, before[name]):
            path, _, last = name.rpartition(".")
            found[path].add(last)
    if "" in found:
        raise TombolaError(f"peft adapts layers, and {', '.join(found[''])} of the network is in none")
    return {n: parts for n, parts in found.items() if not any(n.startswith(f"{other}.") for other in found)}


def _rank(changed: Mapping[str, set[str]], module: nn.Module, base: nn.Module) -> tuple[int, list[str]]:
    """The rank with which the adapter is smallest, and the layers of which it then holds single changes."""
    sizes = {}  # numbers that differ, rows and columns together, numbers
    for name, parts in changed.items():
        if type(base.get_submodule(name)) is nn.Linear and parts == {"weight"}:
            weight = base.get_parameter(f"{name}.weight")
            differ = int((module.get_parameter(f"{name}.weight") != weight).sum())
            sizes[name] = differ, sum(weight.shape), weight.numel()

    def fitting(r: int) -> list[str]:
        return [name for name, (differ, sides, size) in sizes.items() if differ <= r * sides <= size]

    def cost(r: int) -> int:
        sparse = fitting(r)
        each = (BYTES * r * sides if n in sparse else 4 * size for n, (_, sides, size) in sizes.items())
        return sum(each) if sparse else sys.maxsize

    rank = min((math.ceil(differ / sides) for differ, sides, _ in sizes.values()), key=cost, default=0)
    return rank, fitting(rank)


def _largest(change: Tensor, r: int) -> Tensor:
    """The places of the largest changes of a layer, as many as SHiRA has of this rank, boolean ``[m, n]``."""
    mask = torch.zeros(change.numel(), dtype=torch.bool)
    mask[change.abs().flatten().topk(r * sum(change.shape)).indices] = True
    return mask.view_as(change)


def _fill(adapted: Any, module: nn.Module, changes: Mapping[str, Tensor]) -> None:
    """Give an adapter the changes, and the layers that it holds whole."""
    from peft.utils import ModulesToSaveWrapper

    for name, layer in list(adapted.named_modules()):
        if name in changes:
            row, column = layer.shira_indices["default"].long()
            layer.shira_weight["default"].copy_(changes[name][row, column])
        elif isinstance(layer, ModulesToSaveWrapper):
            layer.modules_to_save["default"].load_state_dict(module.get_submodule(name).state_dict())
