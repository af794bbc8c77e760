"""One layer at a time: masks, and corrected weights, from sums over its inputs.

What is summed does not grow with the data: squares of the inputs (``wanda``), or their products
(``sparsegpt``). So a network can be pruned block by block (`tombola.tickets.oneshot`).

Shape letters: O outputs, I inputs, B samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola._utils.errors import PruningError
from tombola.pruning.selection import best_of_each, keep_top

FEW = 1 << 21  # scores that are there at once


@dataclass(frozen=True)
class LayerScore:
    """A score of a linear layer that reads its inputs.

    Attributes:
        sums: what is added up of inputs ``[B, I]``.
        cut: from weights float32 ``[O, I]``, the sums and the number of weights to keep to a mask and the
            weights afterwards.
        corrects: whether the weights that stay are changed, so that every ticket is a network of its own.
    """

    sums: Callable[[Tensor], Tensor]
    cut: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    corrects: bool = False


def squares(x_BI: Tensor) -> Tensor:
    """Squared inputs, their sums float64 ``[I]``."""
    return x_BI.double().square().sum(0)


def products(x_BI: Tensor) -> Tensor:
    """``XᵀX``, half the Hessian of the squared error of a layer's outputs, ``[I, I]``."""
    return x_BI.T @ x_BI


def wanda(weight_OI: Tensor, squares_I: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The largest ``|W_ij| ‖X_j‖₂`` of every row (Sun et al., arXiv 2306.11695): boolean ``[O, I]``.

    >>> mask, _ = wanda(torch.tensor([[1.0, -2.0], [3.0, 1.0]]), torch.tensor([9.0, 1.0]).double(), 2)
    >>> mask.tolist()
    [[True, False], [True, False]]
    """
    norms_I = squares_I.sqrt()
    return _rows(weight_OI, lambda part: part.double().abs() * norms_I, keep), weight_OI


def magnitude(weight_OI: Tensor, _: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The largest ``|W_ij|`` of every row."""
    return _rows(weight_OI, torch.abs, keep), weight_OI


def _rows(weight_OI: Tensor, score: Callable[[Tensor], Tensor], keep: int) -> Tensor:
    """As many of every row, one more of the last ones, by scores of a few rows at a time."""
    rows, width = weight_OI.shape
    mask_OI, step = torch.empty(rows, width, dtype=torch.bool), max(FEW // width, 1)
    for quota, start, end in (
        (keep // rows, 0, rows - keep % rows),
        (keep // rows + 1, rows - keep % rows, rows),
    ):
        for at in range(start, end, step):
            part = slice(at, min(at + step, end))
            scores = score(weight_OI[part])
            if scores.isnan().any():
                raise PruningError("scores are no numbers: weights or inputs are NaN or infinite")
            mask_OI[part] = best_of_each(scores, quota)
    return mask_OI


def sparsegpt(
    weight_OI: Tensor, products_II: Tensor, keep: int, *, damping: float = 0.01, columns: int = 128
) -> tuple[Tensor, Tensor]:
    """A mask, and the other weights corrected for what is missing (Frantar & Alistarh, arXiv 2301.00774).

    Column after column, what a pruned weight added to the outputs is given to the columns that follow, as the
    inverse of the Hessian says (their Algorithm 1); the mask is chosen for ``columns`` at once, the largest
    ``W_ij² / [H⁻¹]_jj²`` of them. An input that is always zero loses its weights.

    Args:
        weight_OI: the weights.
        products_II: `products` of the inputs, summed.
        keep: how many weights stay.
        damping: share of the mean diagonal that is added to it.
        columns: the block.

    Raises:
        PruningError: products that cannot be inverted.

    >>> inputs = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])  # the first is nearly the second
    >>> mask, weight = sparsegpt(torch.tensor([[1.0, 4.0]]), products(inputs), 1, damping=0.0)
    >>> mask.tolist(), [round(w, 3) for w in weight[0].tolist()]
    ([[False, True]], [0.0, 4.667])
    """
    rows, width = weight_OI.shape
    weight_OI, hessian = weight_OI.clone(), products_II.double()
    dead_I = hessian.diagonal() == 0
    hessian.diagonal()[dead_I] = 1
    weight_OI[:, dead_I] = 0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    try:
        upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    except torch.linalg.LinAlgError:
        raise PruningError(
            "products of inputs cannot be inverted: read more samples, or more damping"
        ) from None
    upper, mask_OI = upper.to(weight_OI.dtype), torch.empty(rows, width, dtype=torch.bool)
    for start in range(0, width, columns):
        end = min(start + columns, width)
        chosen = slice(start, end)
        block, inverse = weight_OI[:, chosen], upper[chosen, chosen]
        quota = keep * end // width - keep * start // width
        score = (block / inverse.diagonal()).square().masked_fill(dead_I[chosen], -1)
        mask_OI[:, chosen] = keep_top(score.flatten(), quota).view(block.shape)
        errors = torch.empty_like(block)
        for j in range(end - start):
            lost = block[:, j].masked_fill(mask_OI[:, start + j], 0) / inverse[j, j]
            block[:, j:] -= lost[:, None] * inverse[j, j:]
            block[:, j].masked_fill_(~mask_OI[:, start + j], 0)
            errors[:, j] = lost
        weight_OI[:, end:] -= errors @ upper[chosen, end:]
    return mask_OI, weight_OI


LAYER_SCORES = {
    "wanda": LayerScore(squares, wanda),
    "sparsegpt": LayerScore(products, sparsegpt, corrects=True),
    "magnitude": LayerScore(lambda x_BI: x_BI.new_zeros(x_BI.shape[1]), magnitude),
}
