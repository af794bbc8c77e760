"""``m ⊙ θ`` as the named weights of a network.

On a CPU the product of numbers and booleans takes two passes, the gradient of taking it apart one more.
Where the compiled kernels are there (`tombola._utils.native`), each direction is one pass. The two differ in
nothing but the sign of zeros, and in NaN and infinity outside the mask, which only the kernels turn to zero.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tombola._utils import native
from tombola._utils.errors import MaskError
from tombola._utils.torch_state import ordinary
from tombola.masks.bits import unpacked
from tombola.masks.layout import Layout

SMALLEST = 1 << 15  # weights: below, a call from Python costs more than the passes
_NAMES = {torch.float32: "float32", torch.float64: "float64"}


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
    if not weights_N.shape == mask_N.shape == (layout.size,) or not ordinary([weights_N, mask_N]):
        return layout.unflatten(weights_N * mask_N)
    parts: Sequence[Tensor] = _Product.apply(weights_N, mask_N, layout)
    return dict(zip(layout.names, parts, strict=True))


def straight_through(
    layout: Layout, weights_N: Tensor, mask_N: Tensor, scores_N: Tensor
) -> dict[str, Tensor]:
    """The weights of a scope by name, zero outside a mask that was cut from scores.

    The values are ``m ⊙ θ``. With g the gradient of the product, at every entry, the gradient of the weights
    is ``g ⊙ m`` and that of the scores is ``g ⊙ θ``, as if the mask were the scores themselves: the
    straight-through estimator (Bengio et al., arXiv 1308.3432), as in edge-popup (Ramanujan et al., arXiv
    1911.13299).

    Args:
        layout: names and shapes.
        weights_N: floating ``[N]``.
        mask_N: boolean ``[N]``.
        scores_N: floating ``[N]``, finite; only their gradient counts.

    >>> layout, mask_N = Layout(("a",), ((2,),)), torch.tensor([True, False])
    >>> theta_N, s_N = (torch.tensor(v, requires_grad=True) for v in ([3.0, 4.0], [0.2, 0.1]))
    >>> product = straight_through(layout, theta_N, mask_N, s_N)["a"]
    >>> (product * torch.tensor([1.0, 10.0])).sum().backward()
    >>> product.tolist(), theta_N.grad.tolist(), s_N.grad.tolist()
    ([3.0, 0.0], [1.0, 0.0], [3.0, 40.0])
    """
    zero_N = scores_N - scores_N.detach()  # 0 with the gradient of the scores
    return layout.unflatten(weights_N * mask_N + weights_N.detach() * zero_N)


@torch.no_grad()
def masked_parts(layout: Layout, parts: Sequence[Tensor], bits_M: Tensor, out_N: Tensor) -> Tensor:
    """``m ⊙ θ`` of weights that lie apart, written into ``out_N``: one pass, and no flat copy before it.

    Args:
        layout: names and shapes.
        parts: floating tensors of these shapes, in this order.
        bits_M: a mask of N weights, packed (`tombola.masks.bits`).
        out_N: floating ``[N]``.

    >>> from tombola.masks.bits import packed
    >>> layout = Layout(("a", "b"), ((1, 2), (1,)))
    >>> parts, bits_M = [torch.ones(1, 2), torch.ones(1)], packed(torch.tensor([1, 0, 1]) > 0)
    >>> masked_parts(layout, parts, bits_M, torch.empty(3)).tolist()
    [1.0, 0.0, 1.0]
    """
    if tuple([part.numel() for part in parts]) != layout.sizes or out_N.numel() != layout.size:
        raise MaskError("the weights have other sizes than the masks are for: was a layer replaced?")
    if bits_M.dtype != torch.uint8 or bits_M.shape != (-(-layout.size // 8),):
        raise MaskError(
            f"{bits_M.dtype} of shape {tuple(bits_M.shape)} is no packed mask of {layout.size} weights"
        )
    if not _fits(layout, [*parts, out_N], bits_M):
        masks = unpacked(bits_M, layout.size).split(layout.sizes)
        for part, mask, out in zip(parts, masks, out_N.split(layout.sizes), strict=True):
            torch.mul(part.reshape(-1), mask, out=out)
        return out_N
    function = _function(parts[0].dtype, "select_parts")
    assert function is not None
    sizes = (ctypes.c_long * len(parts))(*layout.sizes)
    places = (ctypes.c_void_p * len(parts))(*[part.data_ptr() for part in parts])
    function(len(parts), sizes, places, bits_M.data_ptr(), out_N.data_ptr())
    torch.autograd.graph.increment_version(out_N)  # as torch's own operations in place do
    return out_N


def _fits(layout: Layout, parts: Sequence[Tensor], mask: Tensor) -> bool:
    dtype = parts[0].dtype
    return (
        layout.size >= SMALLEST
        and ordinary([*parts, mask])
        and mask.is_cpu
        and mask.is_contiguous()
        and not [p for p in parts if p.dtype is not dtype or not p.is_cpu or not p.is_contiguous()]
        and _function(dtype) is not None
    )


@cache
def _function(dtype: torch.dtype, kernel: str = "select") -> Callable[..., None] | None:
    library = native.load()
    if library is None or dtype not in _NAMES:
        return None
    function = getattr(library, f"{kernel}_{_NAMES[dtype]}")
    numbers = 3 if kernel == "select" else 4
    function.argtypes, function.restype = [ctypes.c_long, *[ctypes.c_void_p] * numbers], None
    return function


def _select(mask: Tensor, x: Tensor, out: Tensor) -> None:
    function = _function(x.dtype)
    assert function is not None
    function(x.numel(), mask.data_ptr(), x.data_ptr(), out.data_ptr())


class _Product(torch.autograd.Function):
    # The mask is not saved as autograd saves tensors, which it lets go after one backward pass: checkpoints
    # of the reentrant kind make several.
    @staticmethod
    def forward(ctx: Any, weights_N: Tensor, mask_N: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.mask_N, ctx.layout = mask_N, layout
        ctx.kernel = mask_N.dtype == torch.bool and _fits(layout, [weights_N], mask_N)
        product_N = torch.empty_like(weights_N) if ctx.kernel else weights_N * mask_N
        if ctx.kernel:
            _select(mask_N, weights_N, product_N)
        return tuple(layout.unflatten(product_N).values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        mask_N, sizes = ctx.mask_N, ctx.layout.sizes
        if not ctx.kernel or torch.is_grad_enabled():  # a second derivative may be asked for
            return torch.cat([g.reshape(-1) for g in gradients]) * mask_N, None, None
        gradient_N = torch.empty(mask_N.shape, dtype=gradients[0].dtype)
        for mask, g, out in zip(mask_N.split(sizes), gradients, gradient_N.split(sizes), strict=True):
            _select(mask, g.contiguous(), out)
        return gradient_N, None, None
