"""``m ⊙ θ`` as the named weights of a network.

On a CPU the product of numbers and booleans takes two passes, the gradient of taking it apart one more.
Where the compiled kernels are there (`tombola.native`), each direction is one pass. The two differ in
nothing but the sign of zeros, and in NaN and infinity outside the mask, which only the kernels turn to zero.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tombola import native
from tombola.layout import Layout

SMALLEST = 1 << 15  # weights: below, a call from Python costs more than the passes
_NAMES = {torch.float32: "select_float32", torch.float64: "select_float64"}


def masked_weights(layout: Layout, weights_N: Tensor, mask_N: Tensor) -> dict[str, Tensor]:
    """The weights of a scope by name, zero outside the mask; gradients come out masked.

    Args:
        layout: names and shapes.
        weights_N: floating ``[N]``.
        mask_N: boolean ``[N]``.

    >>> layout = Layout(("a", "b"), ((1, 2), (1,)))
    >>> {n: w.tolist() for n, w in masked_weights(layout, torch.ones(3), torch.tensor([1, 0, 1]) > 0).items()}
    {'a': [[1.0, 0.0]], 'b': [1.0]}
    """
    if not _applies(weights_N, mask_N):
        return layout.unflatten(weights_N * mask_N)
    parts: Sequence[Tensor] = _Product.apply(weights_N, mask_N, layout)
    return dict(zip(layout.names, parts, strict=True))


def _applies(weights_N: Tensor, mask_N: Tensor) -> bool:
    plain = type(weights_N) in (Tensor, torch.nn.Parameter) and type(mask_N) in (Tensor, torch.nn.Parameter)
    return (
        plain
        and not torch.compiler.is_compiling()
        and weights_N.device.type == mask_N.device.type == "cpu"
        and weights_N.dim() == 1
        and weights_N.numel() >= SMALLEST
        and mask_N.dtype == torch.bool
        and weights_N.is_contiguous()
        and mask_N.is_contiguous()
        and not transformed()
        and _function(weights_N.dtype) is not None
    )


def transformed() -> bool:
    """Whether ``torch.func`` is at work (vmap, grad, ...), which wants torch's own operations."""
    peek = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)
    return peek is None or peek() is not None


@cache
def _function(dtype: torch.dtype) -> Callable[..., None] | None:
    library = native.load()
    if library is None or dtype not in _NAMES:
        return None
    function = getattr(library, _NAMES[dtype])
    function.argtypes, function.restype = [ctypes.c_long, *[ctypes.c_void_p] * 3], None
    return function


def _select(mask: Tensor, x: Tensor, out: Tensor) -> None:
    function = _function(x.dtype)
    assert function is not None
    function(x.numel(), mask.data_ptr(), x.data_ptr(), out.data_ptr())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights_N: Tensor, mask_N: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.save_for_backward(mask_N)
        ctx.layout = layout
        product_N = torch.empty_like(weights_N)
        _select(mask_N, weights_N, product_N)
        return tuple(layout.unflatten(product_N).values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask_N,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may be asked for
            return torch.cat([g.reshape(-1) for g in gradients]) * mask_N, None, None
        gradient_N = torch.empty(mask_N.shape, dtype=gradients[0].dtype)
        parts = zip(
            mask_N.split(ctx.layout.sizes), gradients, gradient_N.split(ctx.layout.sizes), strict=True
        )
        for mask, g, out in parts:
            _select(mask, g.contiguous(), out)
        return gradient_N, None, None
