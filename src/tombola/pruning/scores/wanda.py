"""Wanda: ``s_ij = |W_ij| · ‖X_j‖₂``, weights times the norm of their inputs (Sun et al., arXiv 2306.11695).

``X_j`` is input feature j over all samples and positions. In a convolution every tap of the kernel has its
own: the inputs that it meets as the kernel moves. Both are the same thing: a layer ``y(x; W)`` is linear in
W, so the sum of its outputs for squared inputs has the derivative

    ∂/∂W_ij Σ y(x²; W) = Σ x_j² = ‖X_j‖₂²,

with stride, padding, groups and transposition as the layer has them.

The paper compares weights within one output row. That is not the score's business but the selection's:
``row``, which the method ``wanda`` uses; ``global`` compares across layers, whose norms have different
scales. It is meant for trained weights, and retrains nothing. Where weights are changes of a reference, W is
the change: what it moves in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tombola._utils.batch import call
from tombola._utils.errors import PruningError
from tombola.masks.layout import Layout
from tombola.masks.prunable import NORMS
from tombola.masks.reference import original, plain
from tombola.pruning.scores.criterion import PruningContext

LINEAR = (
    *(F.linear, F.conv1d, F.conv2d, F.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)


def _turned_linear(input: Tensor, weight: Tensor, _: None) -> Tensor:
    return input @ weight


class _Watch(TorchFunctionMode):
    """Adds up the squared inputs of every weight while a network runs.

    It watches linear operations instead of hooking modules, whose input need not be what meets their weight
    (a convolution that pads, a layer that embeds a context).
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(weight): name for name, weight in weights.items()}
        self.squares: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in LINEAR:
            self._add(func, *args, **(kwargs or {}))
        elif func is torch.addmm:  # ``Conv1D`` of transformers: bias, inputs, weight [in, out]
            self._add(_turned_linear, *args[1:3])
        return func(*args, **(kwargs or {}))

    def _add(
        self,
        func: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,  # noqa: ARG002
        *rest: Any,
        **options: Any,
    ) -> None:
        name = self.names.get(id(weight))
        if name is None:
            return
        if func is F.linear:  # the same for all rows: a sum, where the derivative is a product of matrices
            squares = input.detach().flatten(0, -2).double().square().sum(0)
        else:
            with torch.enable_grad():
                free = torch.zeros_like(weight, dtype=torch.float64).requires_grad_()
                total = func(input.detach().double().square(), free, None, *rest, **options).sum()
                (squares,) = torch.autograd.grad(total, free)
        self.squares[name] = self.squares[name] + squares if name in self.squares else squares


def squared_inputs(network: nn.Module, scope: Layout, batches: Iterable[Tensor]) -> Tensor:
    """``‖X_j‖₂²`` for every weight in scope, over all batches, float64 ``[N]``.

    Norm layers take the statistics of the batch and dropout is off. The modes and buffers of the network
    change, and weights with a reference become plain. Nothing but the sums is kept between batches.

    Raises:
        PruningError: a weight in scope is not used by a linear layer or a convolution.

    >>> net = nn.Linear(2, 1)
    >>> squared_inputs(net, Layout(("weight",), ((1, 2),)), [torch.tensor([[3.0, 1.0], [4.0, 1.0]])]).tolist()
    [25.0, 2.0]
    """
    network.eval()
    for layer in network.modules():
        if isinstance(layer, NORMS):
            layer.train()
    parameters = dict(plain(network).named_parameters())  # a change meets what its weight meets
    names = {n: original(n) if original(n) in parameters else n for n in scope.names}
    callback = _Watch({name: parameters[there] for name, there in names.items()})
    with torch.no_grad(), callback:
        for x in batches:
            call(network, x)
    unseen = [name for name in scope.names if name not in callback.squares]
    if unseen:
        raise PruningError(
            f"wanda saw no linear layer or convolution that uses {', '.join(unseen)}: exclude it, or choose "
            "another score"
        )
    shapes = zip(scope.names, scope.shapes, strict=True)
    return scope.flatten({name: callback.squares[name].expand(shape) for name, shape in shapes})


def wanda(context: PruningContext, batches: int = 1) -> Tensor:
    """Weights times the norm of their inputs over batches of ``d_k``, float64 ``[N]``."""
    inputs = (context.inputs(batch) for batch in range(batches))
    squares_N = squared_inputs(context.network(), context.scope, inputs)
    return squares_N.sqrt_().mul_(context.weights_N.abs())
