"""The scope: weights that may be pruned."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import is_parametrized

from tombola._utils.errors import PatternError, ScopeError, unknown
from tombola.masks.layout import Layout
from tombola.masks.low_rank import adapter_names
from tombola.masks.reference import Change, changed, references

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
KEEP_ZEROS = (_WeightNorm, _SpectralNorm)  # a zero of what they make the weight of is a zero of the weight
_CONV1D = ("transformers.pytorch_utils", "Conv1D")  # a linear layer whose weight is [in, out]
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def is_prunable(layer: nn.Module) -> bool:
    """Whether a layer has a matrix or kernel ``weight`` that is in the default scope.

    >>> is_prunable(nn.Linear(2, 1)), is_prunable(nn.ReLU())
    (True, False)
    """
    return isinstance(layer, PRUNABLE) or _is_conv1d(layer)


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer normalises: one of torch's, or of that name (``LlamaRMSNorm``), with vectors alone.

    >>> is_norm(nn.LayerNorm(2)), is_norm(nn.Linear(2, 1))
    (True, False)
    """
    named = type(layer).__name__.endswith(("Norm", "Norm1d", "Norm2d", "Norm3d"))
    own = list(layer.parameters())
    return isinstance(layer, NORMS) or (named and bool(own) and all(p.ndim <= 1 for p in own))


def prunable_weights(layer: nn.Module) -> list[nn.Parameter]:
    """The matrices and kernels of a layer that are in the default scope.

    Those of linear layers and convolutions, of recurrent layers, and the projections of
    ``nn.MultiheadAttention``. Where torch's weight norm or spectral norm makes the weight of another
    parameter, that one: its zeros are zeros of the weight, which other parametrisations need not keep.

    >>> [tuple(w.shape) for w in prunable_weights(nn.GRU(2, 3))]
    [(9, 2), (9, 3)]
    """
    own = dict(layer.named_parameters(recurse=False))
    if changes := _changes(layer):
        return changes
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        return [p for name, p in own.items() if name.startswith("weight")]
    if isinstance(layer, nn.MultiheadAttention):
        return [p for name, p in own.items() if name.endswith("proj_weight")]
    if not is_prunable(layer):
        return []
    if not is_parametrized(layer, "weight"):
        return [own["weight"]] if "weight" in own else []
    [*made] = layer.get_submodule("parametrizations.weight").named_parameters(recurse=False)
    kept = all(isinstance(m, KEEP_ZEROS) for m in layer.get_submodule("parametrizations.weight").children())
    return [p for _, p in made if kept and p.shape == layer.weight.shape]


def _changes(layer: nn.Module) -> list[nn.Parameter]:
    """The changes of a reference (`tombola.masks.reference`) that a layer has."""
    if not is_parametrized(layer):
        return []
    made = layer.get_submodule("parametrizations").children()
    kept = [one for one in made if all(isinstance(m, Change) for m in one.children())]
    return [p for one in kept for name, p in one.named_parameters(recurse=False) if name == "original"]


def turned(layer: nn.Module) -> int:
    """The number of groups of a layer whose weight is stored as ``[in, out / groups, ...]``, 0 of all others.

    >>> turned(nn.ConvTranspose2d(4, 6, 3, groups=2)), turned(nn.Linear(2, 1))
    (2, 0)
    """
    return layer.groups if isinstance(layer, TRANSPOSED) else int(_is_conv1d(layer))


def _is_conv1d(layer: nn.Module) -> bool:
    return any((kind.__module__, kind.__name__) == _CONV1D for kind in type(layer).__mro__)


def output_layer(model: nn.Module) -> str | None:
    """Name of the layer that computes the outputs: the last prunable one, in the order of the modules.

    None where it is the only one, or a convolution with a norm after it: that one computes features
    (the network has no output layer, or has it in another place).
    """
    found = [(name, m) for name, m in model.named_modules() if is_prunable(m) or isinstance(m, NORMS)]
    layers = [(name, m) for name, m in found if is_prunable(m)]
    if len(layers) < 2:
        return None
    name, last = layers[-1]
    return name if isinstance(last, nn.Linear) or last is found[-1][1] else None


def scope(
    model: nn.Module, include: Iterable[str] | None = None, exclude: Iterable[str] = (), head: str | None = ""
) -> Layout:
    """The prunable weights of ``model``: their names and shapes, in the order of the model.

    Without ``include``: `prunable_weights` of every layer except the one that computes the outputs: ``head``,
    the name of its weight, None where there is none. By default it is the last linear or convolutional one in
    the order of the modules (`output_layer`); whoever has data finds it (`tombola.training.head`). Norms,
    biases and embeddings are never in it unless ``include`` names them. ``include`` and ``exclude`` hold
    parameter names or globs (``"blocks.*.weight"``); ``exclude`` wins. A weight shared by several layers
    appears once, under its first name.

    Raises:
        ScopeError: a pattern matches no parameter, or nothing is left.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> scope(net).names
    ('0.weight', '2.weight')
    >>> scope(net, include=["*.weight"], exclude=["1.*"]).names
    ('0.weight', '2.weight', '3.weight')
    """
    parameters = dict(model.named_parameters())
    weights = {changed(name): name for name in references(model)}  # patterns name the weight of a change
    names = {weights.get(name, name): name for name in parameters}
    wanted = default_names(model, head) if include is None else {names[n] for n in match(names, include)}
    dropped = {names[n] for n in match(names, exclude)}
    kept = {name: p for name, p in parameters.items() if name in wanted and name not in dropped}
    if not kept:
        raise (ScopeError if include is None and not dropped else PatternError)(
            "no prunable weight: the model has no convolution, linear, recurrent or attention layer besides "
            "its output layer, or everything is excluded; name weights with include=[...]. "
            f"Parameters: {', '.join(parameters) or 'none'}"
        )
    dtypes = {p.dtype for p in kept.values()}
    if len(dtypes) > 1:
        raise ScopeError(f"weights in scope have several dtypes ({dtypes}); cast the model to one")
    return Layout.of(kept)


def left_out(model: nn.Module, found: Layout, share: float = 0.1, head: str | None = "") -> str:
    """A warning of matrices that are not in scope, though nobody excluded them; empty if few.

    Layers of one's own may keep any parameters. ``share`` of all weights in matrices and kernels may be left
    out in silence.
    """
    meant = _embeddings(model)
    last = _head(model, head)
    meant |= {id(p) for name, p in model.named_parameters() if name == last}
    meant |= {id(model.get_parameter(name)) for name in adapter_names(model)}
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.ndim > 1 and id(p) not in meant}
    missed = {name: size for name, size in sizes.items() if name not in found.names}
    if sum(missed.values()) <= share * sum(sizes.values()):
        return ""
    largest = sorted(missed.items(), key=lambda pair: -pair[1])[:3]
    return (
        f"{', '.join(f'{name} ({size:,})' for name, size in largest)} are not in scope, "
        f"with others {sum(missed.values()) / sum(sizes.values()):.0%} of all weights: by default "
        "linear, convolutional, recurrent and attention layers are pruned; name others with include=[...]"
    )


def default_names(model: nn.Module, head: str | None = "") -> set[str]:
    """`prunable_weights` of all layers, but none that the output layer or an embedding uses."""
    never = _embeddings(model)
    never |= {id(p) for name, p in model.named_parameters() if name == _head(model, head)}
    ids = {id(p) for m in model.modules() for p in prunable_weights(m)} - never
    return {name for name, p in model.named_parameters() if id(p) in ids}


def _embeddings(model: nn.Module) -> set[int]:
    return {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}


def _head(model: nn.Module, head: str | None) -> str | None:
    """The name of the weight of the output layer: the given one, or that of the last layer."""
    if head != "":
        return head
    last = output_layer(model)
    if last is None:
        return None
    weights = set(map(id, prunable_weights(model.get_submodule(last))))
    return next((name for name, p in model.named_parameters() if id(p) in weights), None)


def match(names: Iterable[str], patterns: Iterable[str], kind: str = "parameter") -> set[str]:
    """The names that match any of the globs; a pattern that matches none is an error."""
    names, found = list(names), set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits and (inside := [name for name in names if name.startswith(f"{pattern}.")]):
            raise PatternError(f"{pattern!r} names a module: name its parameters, such as {inside[0]!r}")
        if not hits:
            raise PatternError(unknown(kind, pattern, names))
        found |= hits
    return found
