"""The output layer, found from what the outputs are computed of.

From the outputs back through the graph of one pass: the first product with a matrix on every way is the
output layer. Norms, activations, scales and pools may come after it. Where the outputs are computed of
several matrices at once (a recurrent layer, a sum of two heads) there is no one output layer: None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch, call, mapped, part_of
from tombola._utils.errors import PatternError, unknown
from tombola._utils.replica import copied

_PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear")


@dataclass(frozen=True)
class Head:
    """The output layer.

    Attributes:
        weight: its matrix or kernel; of one that is parametrised, the largest part of it.
        rows: the parameters of which row k is read by output k and by no other.
    """

    weight: str
    rows: tuple[str, ...]


@torch.enable_grad()
def find_head(
    network: nn.Module, x: Batch, read: Callable[[Any], Tensor] = part_of, name: str = ""
) -> Head | None:
    """The output layer of a network, None where there is not exactly one.

    Args:
        network: stays as it is; a copy runs in evaluation mode.
        x: a few inputs.
        read: the part of the outputs that counts.
        name: the layer or its weight, if it is known.

    Raises:
        ScopeError: there is no layer or weight of this name.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSigmoid())
    >>> find_head(net, torch.rand(2, 4))
    Head(weight='2.weight', rows=('2.weight', '2.bias'))
    """
    network = copied(network).requires_grad_(True).eval()
    x = mapped(lambda t: t.detach().clone().requires_grad_(t.is_floating_point() or t.is_complex()), x)
    outputs = read(call(network, x))
    if name:
        return _named(network, outputs, name)
    parameters = {id(p): (name, p) for name, p in network.named_parameters()}
    graph = _Graph(parameters)
    heads: set[frozenset[int]] = set()
    todo, seen = [outputs.grad_fn], set[Any]()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "CheckpointFunctionBackward":
            return None  # what is in it is not seen
        used = frozenset(i for child in _children(node) if not graph.reads(child) for i in graph.below(child))
        if any(_is_matrix(parameters[i][1], node) for i in used):
            heads.add(used)
        else:
            todo += [child for child in _children(node) if graph.reads(child)]
    if len(heads) != 1:
        return None
    own = [parameters[i] for i in parameters if i in next(iter(heads))]
    weight = max((p.numel(), name) for name, p in own if p.ndim > 1)[1]
    return Head(weight, _rows(outputs, [(name, p) for name, p in own if p.ndim]))


def _named(network: nn.Module, outputs: Tensor, name: str) -> Head:
    named = dict(network.named_parameters())
    weight = name if name in named else f"{name}.weight"
    if weight not in named:
        raise PatternError(unknown("output layer", name, [n.removesuffix(".weight") for n in named]))
    layer, _, _ = weight.rpartition(".")
    own = [(n, p) for n, p in named.items() if n == weight or (layer and n == f"{layer}.bias")]
    return Head(weight, _rows(outputs, own))


def _rows(outputs: Tensor, own: Sequence[tuple[str, Tensor]]) -> tuple[str, ...]:
    """Those of which row k has a gradient from output k alone, tried on the first and the last."""
    if outputs.ndim < 2 or any(len(p) != outputs.shape[1] for _, p in own):
        return ()
    tensors = [p for _, p in own]
    for k in {0, outputs.shape[1] - 1}:
        gradients = torch.autograd.grad(
            outputs[:, k].sum(), tensors, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if any(bool(g[torch.arange(len(g)) != k].any()) for g in gradients):
            return ()
    return tuple(name for name, _ in own)


def _is_matrix(p: Tensor, node: Any) -> bool:
    """Whether it mixes features, and is no scale of each: one row does where it is multiplied as a matrix."""
    one = p.ndim > 1 and (p.ndim == 2 or len(p) == 1)  # a kernel [C, 1, 1, 1] is a scale of C channels
    return p.squeeze().ndim > 1 or (one and _operation(node) in _PRODUCTS)


def _takes_data(node: Any) -> bool:
    """Whether inputs enter here that have no gradient: an embedding, a product with something unknown."""
    name = _operation(node)
    return "Embedding" in name or (name in _PRODUCTS and any(c is None for c, _ in node.next_functions))


def _operation(node: Any) -> str:
    return type(node).__name__.removesuffix("Backward0")


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]


class _Graph:
    """Which nodes of a graph depend on the inputs, and which parameters the others are made of."""

    def __init__(self, parameters: dict[int, Any]) -> None:
        self.parameters, self._reads, self._below = parameters, dict[Any, bool](), dict[Any, frozenset[int]]()

    def reads(self, node: Any) -> bool:
        """Whether it depends on the inputs: on numbers of theirs, or by an embedding."""
        self._visit(node)
        return self._reads[node]

    def below(self, node: Any) -> frozenset[int]:
        """The parameters that it is made of."""
        self._visit(node)
        return self._below[node]

    def _visit(self, root: Any) -> None:
        todo = [root]
        while todo:
            node = todo[-1]
            children = [] if node in self._reads else [c for c in _children(node) if c not in self._reads]
            if children:
                todo += children
                continue
            todo.pop()
            variable = getattr(node, "variable", None)  # of a leaf
            ours = variable is not None and id(variable) in self.parameters
            self._reads.setdefault(
                node,
                (variable is not None and not ours)
                or _takes_data(node)
                or any(self._reads[c] for c in _children(node)),
            )
            below = frozenset([id(variable)]) if ours else frozenset[int]()
            self._below.setdefault(node, below.union(*(self._below[c] for c in _children(node))))
