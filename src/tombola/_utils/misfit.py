"""The words for a batch that a network cannot take: what it is, and what was expected.

A batch is looked at only after an error, so nothing is refused that a network takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import TombolaError

RAISED = (RuntimeError, ValueError, TypeError, IndexError)  # what networks raise at inputs of another form
Part = tuple[str, list[int]]  # dtype and shape of a sample


@contextmanager
def named(x: Batch, network: nn.Module, form: Any = None) -> Iterator[None]:
    """Where an error is raised because of the inputs, say which they are and which are expected.

    Args:
        x: the inputs.
        network: what they are for.
        form: what it was trained on (`tombola.tickets.probe.described`), None where that is not known.

    Raises:
        TombolaError: with the reason that the network gave, in one line.
    """
    try:
        yield
    except RAISED as error:
        if (words := misfit(x, network, form)) is None:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TombolaError(f"{words} ({reason})") from None


def misfit(x: Batch, network: nn.Module, form: Any = None) -> str | None:
    """How inputs differ from what a network takes, in a few words; None where nothing is seen.

    >>> import torch
    >>> misfit(torch.rand(5, 3), nn.Sequential(nn.Linear(4, 2)))
    'x is [5, 3], and the first layer of the network (0, Linear) takes [batch, 4]'
    """
    given, wanted = batch.tensors(x), dict(_parts(form)) if form is not None else {}
    if wanted.keys() - given.keys():
        return f"x is {_names(given)}, tickets were trained on {_names(wanted)}"
    for path, t in given.items():
        if (words := _part(t, wanted.get(path), network, len(given) == 1)) is not None:
            return f"x{path} is {words}".replace("pass x", f"pass x{path}")
    first = next(iter(given.values()))
    return _first_layer(first, network) if len(given) == 1 or _embeds(network) else None


def _part(t: Tensor, wanted: Part | None, network: nn.Module, alone: bool) -> str | None:
    """How one tensor differs from what the network was trained on, or from its own floats."""
    dtype, shape = wanted or ("", list(t.shape[1:]))
    floats = next((p.dtype for p in network.parameters() if p.is_floating_point()), t.dtype)
    if t.is_floating_point():
        if dtype and not dtype.startswith(("float", "bfloat")):
            return f"{t.dtype}, tickets were trained on torch.{dtype}: pass x.to(torch.{dtype})"
        cast = t.dtype != floats
    else:
        cast = dtype.startswith(("float", "bfloat")) or (not dtype and alone and not _embeds(network))
    if cast:
        return f"{t.dtype}, the network {floats}: pass x.to({floats})"
    if list(t.shape[1:]) == shape:
        return None
    sizes = ", ".join(["batch", *map(str, shape)])
    return f"{list(t.shape)}, tickets were trained on [{sizes}], and the network cannot take another shape"


def _parts(form: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Part]]:
    """The tensors in a form by the path to them, as `batch.tensors` has them."""
    if "tensor" in form:
        yield path, (form["dtype"], list(form["tensor"]))
    for name, part in form.get("dict", {}).items():
        yield from _parts(part, f"{path}[{name!r}]")
    for i, part in enumerate(form.get("tuple", form.get("list", ()))):
        yield from _parts(part, f"{path}[{i}]")


def _names(parts: Mapping[str, Any]) -> str:
    names = [path.strip("[]") for path in parts]
    return "one tensor" if names == [""] else f"parts {', '.join(names)}"


def _layer(network: nn.Module) -> tuple[str, nn.Module] | None:
    """The first layer with weights of its own, in the order in which the network holds them."""
    every = network.named_modules()
    return next(((n, m) for n, m in every if any(p.ndim > 1 for p in m.parameters(recurse=False))), None)


def _embeds(network: nn.Module) -> bool:
    found = _layer(network)
    return found is not None and isinstance(found[1], nn.Embedding | nn.EmbeddingBag)


def _first_layer(x: Tensor, network: nn.Module) -> str | None:
    """How one tensor differs from what the first layer takes, where it is of a known kind."""
    if (found := _layer(network)) is None:
        return None
    name, layer = found
    whose = f"the first layer of the network ({name or 'itself'}, {type(layer).__name__}) takes"
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        rows = layer.num_embeddings
        if x.is_floating_point():
            return f"x is {x.dtype}, and {whose} numbers of tokens: pass x.long()"
        wrong = x.numel() and x.device.type == "cpu" and not 0 <= int(x.min()) <= int(x.max()) < rows
        return f"x is from {int(x.min())} to {int(x.max())}, and {whose} 0 to {rows - 1}" if wrong else None
    at, size, sizes = _sizes(layer)
    if not sizes or (x.ndim >= len(sizes) and x.shape[at] == size and (at == -1 or x.ndim == len(sizes))):
        return None
    return f"x is {list(x.shape)}, and {whose} [{', '.join(map(str, sizes))}]"


def _sizes(layer: nn.Module) -> tuple[int, int, Sequence[object]]:
    """The axis that has to be of one size, that size, and the shape of a batch in words."""
    if isinstance(layer, nn.Linear):
        return -1, layer.in_features, ("batch", layer.in_features)
    if isinstance(layer, nn.RNNBase):
        return -1, layer.input_size, ("batch", "length", layer.input_size)
    places = {nn.Conv1d: ("length",), nn.Conv2d: ("height", "width"), nn.Conv3d: ("depth", "height", "width")}
    for kind, names in places.items():
        if isinstance(layer, kind):
            return 1, layer.in_channels, ("batch", layer.in_channels, *names)
    return 0, 0, ()
