"""Fine-tuned checkpoints of one network: opened, checked against it, and read a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tombola._utils.errors import MaskError, TombolaError, UsageError
from tombola._utils.replica import copied
from tombola._utils.torch_state import plain_name, unwrapped
from tombola._utils.validation import check_name
from tombola.masks.layout import Layout
from tombola.masks.prunable import scope
from tombola.masks.reference import references
from tombola.training.model import check_network

Checkpoint = nn.Module | Mapping[str, Tensor] | Path | str
Read = Callable[[str], Tensor]  # a tensor of a checkpoint, by its name
Shapes = dict[str, tuple[int, ...]]
WRAPPED = "module."  # begins the names that DataParallel and its like save
SHARDS = "model.safetensors.index.json"  # says which file of a folder holds which tensor


@dataclass(frozen=True)
class FineTunes:
    """A network, and what reads the tensors of each fine-tune of it.

    Attributes:
        base: the network.
        scope: its weights that share a change.
        held: its stored parameters and buffers, each under its first name.
        read: by task, a tensor of the checkpoint by its name, in the dtype of the base.
        own: names outside the scope in which any checkpoint differs from the base.
    """

    base: nn.Module
    scope: Layout
    held: Mapping[str, Tensor]
    read: Mapping[str, Read]
    own: tuple[str, ...]

    def private(self, name: str) -> dict[str, Tensor]:
        """What a task has for itself: norms, biases, output layers, buffers."""
        return {n: self.read[name](n) for n in self.own}


def fine_tunes(
    base: nn.Module,
    checkpoints: Mapping[str, Checkpoint],
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
) -> FineTunes:
    """Checkpoints of a network by task, none of which is held as a whole where it is a safetensors file.

    Args:
        base: the network that all were fine-tuned from; it stays as it is.
        checkpoints: a network, its ``state_dict``, a file of one, or a folder of such files (safetensors).
        include, exclude: names or globs of the scope (`tombola.scope`).

    Raises:
        UsageError: less than two checkpoints, or names that are no strings.
        MaskError: a checkpoint of another architecture or dtype; the message names it and the tensor.
        TombolaError: a file that cannot be read.
    """
    check_network(base)
    if not isinstance(checkpoints, Mapping) or len(checkpoints) < 2:
        raise UsageError("merge takes at least two checkpoints, by name: {task: network, state_dict or file}")
    for name in checkpoints:
        check_name(name, "task")
    if any(plain_name(name) != name for name, _ in base.named_modules()):
        base = unwrapped(copied(base))
    if references(base):
        raise UsageError("the base is a network of tickets already: merge baked ones (tickets.bake)")
    shared = scope(base, include, exclude)
    stored = base.state_dict().keys()  # without buffers that are made anew
    held = {n: t.detach() for n, t in (*base.named_parameters(), *base.named_buffers()) if n in stored}
    read = {name: _opened(name, given, base, held) for name, given in checkpoints.items()}
    rest = [n for n in held if n not in shared.names and not n.endswith("num_batches_tracked")]
    own = [n for n in rest if any(not torch.equal(one(n), held[n]) for one in read.values())]
    return FineTunes(base, shared, held, read, tuple(own))


def _opened(name: str, given: Checkpoint, base: nn.Module, held: Mapping[str, Tensor]) -> Read:
    """A checkpoint; raises where it is of another architecture than the base."""
    if isinstance(given, str | Path):
        shapes, read = _file(Path(given), name)
    else:
        shapes, read = _tensors(given.state_dict() if isinstance(given, nn.Module) else given, name)
    if not any(tensor.startswith(WRAPPED) for tensor in held):
        shapes, read = _bare(shapes, read)
    others: dict[str, list[str]] = {}  # names of tied weights
    first = {id(p): n for n, p in base.named_parameters()}
    for n, p in base.named_parameters(remove_duplicate=False):
        others.setdefault(first[id(p)], []).append(n)
    where = {n: next((other for other in others.get(n, [n]) if other in shapes), n) for n in held}
    known = {*base.state_dict(), *(n for n, _ in base.named_buffers())}
    known |= {n for each in others.values() for n in each}
    for tensor, t in held.items():
        if where[tensor] not in shapes:
            raise MaskError(f"checkpoint {name!r} has no {tensor}: it is of another network than the base")
        if shapes[where[tensor]] != tuple(t.shape):
            here = shapes[where[tensor]]
            raise MaskError(
                f"checkpoint {name!r} has {tensor} of shape {here}, the base {tuple(t.shape)}: all are "
                "fine-tunes of one network (give the base an output layer as wide as the widest)"
            )
        tied = [other for other in others.get(tensor, []) if other in shapes]
        if any(not torch.equal(read(tied[0]), read(other)) for other in tied[1:]):
            raise MaskError(
                f"checkpoint {name!r} has weights of their own in {', '.join(tied)}, which the base ties"
            )
    if more := [n for n in shapes if n not in known]:
        raise MaskError(
            f"checkpoint {name!r} has {more[0]}, which the base has not: it is of another network"
        )

    def one(tensor: str) -> Tensor:
        found, like = read(where[tensor]).detach(), held[tensor]
        if found.is_floating_point() and found.dtype != like.dtype:
            raise MaskError(
                f"checkpoint {name!r} has {tensor} in {_dtype(found)}, the base in {_dtype(like)}: what "
                "rounding does would count as a change; load the base as the checkpoints are, or cast those"
            )
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise MaskError(f"checkpoint {name!r}: {tensor} holds NaN or infinity")
        return found.to(like)

    return one


def _bare(shapes: Shapes, read: Read) -> tuple[Shapes, Read]:
    """What was saved inside of a wrapper, by its names without it."""
    full = {tensor.removeprefix(WRAPPED): tensor for tensor in shapes}
    return {tensor: shapes[full[tensor]] for tensor in full}, lambda tensor: read(full[tensor])


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def _tensors(held: Any, name: str) -> tuple[Shapes, Read]:
    """The shapes in a state_dict, and what reads its tensors; names without those of wrappers."""
    if not isinstance(held, Mapping):
        raise UsageError(
            f"checkpoint {name!r} is a network, its state_dict or a file: got {type(held).__name__}"
        )
    nested = [key for key, value in held.items() if isinstance(value, Mapping)]
    found = {plain_name(str(n)): t for n, t in held.items() if isinstance(t, Tensor)}
    if not found:
        hint = f": pass what it has under {nested[0]!r}" if nested else ""
        raise UsageError(f"checkpoint {name!r} holds no tensors by name{hint}")
    return {n: tuple(t.shape) for n, t in found.items()}, found.__getitem__


def _file(path: Path, name: str) -> tuple[Shapes, Read]:
    """The shapes in a file, or in the files of a folder, and what reads its tensors."""
    if path.is_dir():
        one, index = path / "model.safetensors", path / SHARDS
        if not one.is_file() and not index.is_file():
            raise TombolaError(f"checkpoint {name!r}: {path} holds neither {one.name} nor {SHARDS}")
        path = one if one.is_file() else index
    if not path.is_file():
        raise TombolaError(f"checkpoint {name!r}: there is no file {path}")
    try:
        if path.name.endswith(".index.json"):
            placed = json.loads(path.read_text())["weight_map"]
            return _safetensors([path.parent / shard for shard in dict.fromkeys(placed.values())])
        if path.suffix == ".safetensors":
            return _safetensors([path])
        return _tensors(torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path)), name)
    except TombolaError:
        raise
    except UnpicklingError:
        raise TombolaError(
            f"checkpoint {name!r}: {path} holds other objects than tensors: save the "
            "state_dict of the network"
        ) from None
    except Exception as error:  # whatever a library says of what is no checkpoint
        reason = (str(error) or type(error).__name__).splitlines()[0].partition("\x1b")[0]
        raise TombolaError(f"checkpoint {name!r}: {path} cannot be read ({reason})") from None


def _safetensors(paths: Iterable[Path]) -> tuple[Shapes, Read]:
    shapes: Shapes = {}
    place: dict[str, Path] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for n in file.keys():  # noqa: SIM118
                shapes[n], place[n] = tuple(file.get_slice(n).get_shape()), path

    def read(tensor: str) -> Tensor:
        with safe_open(place[tensor], framework="pt") as file:
            found: Tensor = file.get_tensor(tensor)
        return found

    return shapes, read
