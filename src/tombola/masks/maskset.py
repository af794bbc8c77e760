"""Masks as data: K named boolean vectors over the weights in scope.

Shape letters: K tickets, N weights in scope, M = ceil(N / 8) bytes, L layers. True means kept. Density is
kept / all, sparsity is 1 − density. Everything here returns new masks; none is changed in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import MaskError, UnknownTicket, needs
from tombola.masks import bits
from tombola.masks.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Masks are widened to float32 in blocks that stay in the cache: a pass then reads one byte per weight and
# mask from memory, and the multiplication, not memory, sets the time. Counts are exact in float32 as long as
# a block is below 2^24 weights.
_BLOCK_BYTES = 1 << 20
_WIDEST = 1 << 20
SHOWN = 20  # tickets in a table; a notebook is no place for hundreds of rows


class MaskSet:
    """K named masks over one scope.

    >>> layout = Layout(("w",), ((4,),))
    >>> masks = MaskSet(layout, {"cat": torch.tensor([1, 1, 0, 0]), "dog": torch.tensor([1, 0, 1, 0])})
    >>> masks.counts
    {'cat': 2, 'dog': 2}
    >>> masks.union().tolist(), masks.core().tolist()
    ([True, True, True, False], [True, False, False, False])
    >>> masks.jaccard()[0, 1].item()  # |and| / |or| = 1 / 3
    0.3333333333333333
    """

    def __init__(self, scope: Layout, masks: Mapping[str, Tensor] | None = None) -> None:
        masks = masks or {}
        if not masks:
            raise MaskError("a mask set needs at least one named mask")
        rows = [_row(scope, name, mask) for name, mask in masks.items()]
        self._init(scope, tuple(masks), torch.stack(rows))

    def _init(
        self, scope: Layout, names: Sequence[str], masks_KN: Tensor | None, bits_KM: Tensor | None = None
    ) -> MaskSet:
        if len(set(names)) < len(names) or not names:
            raise MaskError(f"ticket names must be distinct and at least one: {list(names)}")
        self.scope, self.names = scope, tuple(names)
        self._masks_KN, self._bits_KM = masks_KN, bits_KM  # at least one of them
        return self

    @classmethod
    def stacked(cls, scope: Layout, names: Sequence[str], masks_KN: Tensor) -> MaskSet:
        """From one boolean tensor ``[K, N]``, which is taken over without a copy."""
        if masks_KN.dtype != torch.bool or tuple(masks_KN.shape) != (len(names), scope.size):
            raise MaskError(
                f"masks have dtype {masks_KN.dtype} and shape {tuple(masks_KN.shape)}; "
                f"torch.bool and ({len(names)}, {scope.size}) are needed"
            )
        return cls.__new__(cls)._init(scope, names, masks_KN)

    @classmethod
    def dense(cls, scope: Layout, names: Sequence[str]) -> MaskSet:
        """``m_k = 1`` for all k."""
        ones_N = torch.ones(scope.size, dtype=torch.bool)  # once: nobody writes into masks
        return cls.stacked(scope, names, ones_N.expand(len(names), -1))

    # -- access -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def index(self, name: str) -> int:
        """Row of a ticket; raises `UnknownTicket`, which lists the names."""
        if name not in self.names:
            raise UnknownTicket(name, self.names)
        return self.names.index(name)

    def __getitem__(self, name: str) -> Tensor:
        """The mask of one ticket, boolean ``[N]`` (do not write into it)."""
        return self._row(self.index(name))

    @property
    def masks_KN(self) -> Tensor:
        """All masks, boolean ``[K, N]`` (do not write into them); of a packed set they are unpacked once."""
        if self._masks_KN is None:
            assert self._bits_KM is not None
            self._masks_KN = bits.unpacked(self._bits_KM, self.scope.size)
        return self._masks_KN

    def rows(self) -> Iterator[Tensor]:
        """The masks of all tickets one after another, boolean ``[N]`` each."""
        return map(self._row, range(len(self)))

    def _row(self, k: int) -> Tensor:
        if self._masks_KN is not None:
            return self._masks_KN[k]
        assert self._bits_KM is not None
        return bits.unpacked(self._bits_KM[k], self.scope.size)

    def layers(self, name: str) -> dict[str, Tensor]:
        """The mask of one ticket as boolean tensors in the shapes of the weights."""
        return self.scope.unflatten(self[name])

    def replace(self, name: str, mask_N: Tensor) -> MaskSet:
        """The same set with another mask for one ticket."""
        masks_KN = self.masks_KN.clone()
        masks_KN[self.index(name)] = _row(self.scope, name, mask_N)
        return MaskSet.stacked(self.scope, self.names, masks_KN)

    def select(self, names: Sequence[str]) -> MaskSet:
        """Only these tickets, in this order."""
        rows = [self.index(name) for name in names]
        if self._masks_KN is None:
            return MaskSet.unpack(self.scope, names, self.pack()[rows])
        return MaskSet.stacked(self.scope, names, self._masks_KN[rows])

    def __repr__(self) -> str:
        return (
            f"MaskSet({len(self)} tickets × {self.scope.size:,} weights in {len(self.scope.names)} "
            f"layers, density {self.density:.3f}, union {int(self.union().count_nonzero()):,}, "
            f"core {int(self.core().count_nonzero()):,})"
        )

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        counts = list(self.counts.values())
        return _table(repr(self), self.names, counts, self.scope.size, self.jaccard().numpy())

    def plot(self) -> Figure:
        """Density by layer and Jaccard similarity of all pairs, as a figure; ``.savefig(FILE)`` keeps it."""
        density_KL = self.counts_KL().numpy() / np.array(self.scope.sizes)
        return _figure(self.names, self.scope.names, density_KL, self.jaccard().numpy())

    # -- counts -----------------------------------------------------------------------------------

    def counts_KL(self) -> Tensor:
        """Kept weights of every ticket and layer, int64 ``[K, L]``."""
        each = [[part.count_nonzero() for part in row.split(self.scope.sizes)] for row in self.rows()]
        return torch.stack([torch.stack(row) for row in each])

    @property
    def counts(self) -> dict[str, int]:
        """Kept weights of every ticket."""
        # Row by row: on a CPU a reduction of booleans along one dimension takes ten times as long.
        return dict(zip(self.names, [int(row.count_nonzero()) for row in self.rows()], strict=True))

    @property
    def density(self) -> float:
        """Kept / all over all tickets."""
        return sum(self.counts.values()) / (len(self) * self.scope.size)

    def densities(self) -> dict[str, float]:
        """Kept / all of every ticket."""
        return {name: count / self.scope.size for name, count in self.counts.items()}

    def layer_densities(self, name: str) -> dict[str, float]:
        """Kept / all of every layer of one ticket."""
        counts = self.counts_KL()[self.index(name)].tolist()
        layers = zip(self.scope.names, counts, self.scope.sizes, strict=True)
        return {layer: count / size for layer, count, size in layers}

    # -- algebra ----------------------------------------------------------------------------------

    def union(self) -> Tensor:
        """Weights kept by any ticket, boolean ``[N]``."""
        return self._reduced(torch.bitwise_or)

    def core(self) -> Tensor:
        """Weights kept by every ticket, boolean ``[N]``."""
        return self._reduced(torch.bitwise_and)

    def _reduced(self, both: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if self._masks_KN is None:
            assert self._bits_KM is not None
            return bits.unpacked(reduce(both, self._bits_KM), self.scope.size)
        return reduce(both, self._masks_KN[1:], self._masks_KN[0].clone())

    def __and__(self, other: MaskSet) -> MaskSet:
        return self._like(self.masks_KN & self._peer(other))

    def __or__(self, other: MaskSet) -> MaskSet:
        return self._like(self.masks_KN | self._peer(other))

    def __sub__(self, other: MaskSet) -> MaskSet:
        return self._like(self.masks_KN & ~self._peer(other))

    def __le__(self, other: MaskSet) -> bool:
        """Whether every ticket's mask is a subset of the other's."""
        return not bool((self.masks_KN & ~self._peer(other)).any())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskSet):
            return NotImplemented
        same = (self.names, self.scope) == (other.names, other.scope)
        return same and all(map(torch.equal, self.rows(), other.rows()))

    def __hash__(self) -> int:
        return int(self.digest()[:15], 16)

    def _peer(self, other: MaskSet) -> Tensor:
        if (self.names, self.scope) != (other.names, other.scope):
            raise MaskError("masks of different tickets or scopes cannot be combined")
        return other.masks_KN

    def _like(self, masks_KN: Tensor) -> MaskSet:
        return MaskSet.stacked(self.scope, self.names, masks_KN)

    def overlaps(self) -> Tensor:
        """``|m_i ∧ m_j|`` for all pairs, exact int64 ``[K, K]``."""
        return overlaps(self.masks_KN, self.masks_KN)

    def jaccard(self) -> Tensor:
        """``J_ij = |m_i ∧ m_j| / |m_i ∨ m_j|`` (Eq. 8), float64 ``[K, K]``; 1 for two empty masks."""
        both = self.overlaps()
        return jaccard(both, both.diagonal(), both.diagonal())

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "masks_KN" in state:  # pickled when there were no packed ones
            state = {**state, "_masks_KN": state["masks_KN"], "_bits_KM": None}
            del state["masks_KN"]
        self.__dict__.update(state)

    # -- bytes ------------------------------------------------------------------------------------

    def pack(self) -> Tensor:
        """One bit per weight: uint8 ``[K, M]`` (`tombola.masks.bits`; do not write into them)."""
        return bits.packed(self.masks_KN) if self._bits_KM is None else self._bits_KM

    @classmethod
    def unpack(cls, scope: Layout, names: Sequence[str], packed: Tensor) -> MaskSet:
        """The inverse of `pack`; they are taken over as they are, and unpacked where they are asked for."""
        if packed.dtype != torch.uint8 or packed.shape != (len(names), -(-scope.size // 8)):
            raise MaskError(
                f"packed masks of {packed.dtype} and shape {tuple(packed.shape)} do not hold {len(names)} "
                f"tickets of {scope.size} weights"
            )
        if scope.size % 8 and (packed[:, -1] & (0xFF >> scope.size % 8)).any():
            raise MaskError("packed masks have bits beyond the last weight")
        return cls.__new__(cls)._init(scope, names, None, packed)

    def digest(self) -> str:
        """SHA-256 over names, layout and masks, in hexadecimal."""
        shapes = tuple(map(tuple, self.scope.shapes))  # a torch.Size is equal to a tuple, its repr is not
        sha = hashlib.sha256(repr((self.names, self.scope.names, shapes)).encode())
        for k in range(len(self)):  # one row at a time: no second copy of all
            row = bits.packed(self._row(k)) if self._bits_KM is None else self._bits_KM[k]
            sha.update(row.numpy().tobytes())
        return sha.hexdigest()


def overlaps(a_KN: Tensor, b_JN: Tensor) -> Tensor:
    """``|a_i ∧ b_j|`` for all pairs of rows of two boolean tensors, exact int64 ``[K, J]``."""
    same = b_JN is a_KN
    rows = len(a_KN) if same else len(a_KN) + len(b_JN)
    width = min(max(_BLOCK_BYTES // (4 * rows), 256), _WIDEST)
    total = torch.zeros(len(a_KN), len(b_JN), dtype=torch.int64)
    for a, b in zip(a_KN.split(width, dim=1), b_JN.split(width, dim=1), strict=True):
        x = a.float()
        total += (x @ (x if same else b.float()).T).long().cpu()
    return total


def jaccard(both_KJ: Tensor, a_K: Tensor, b_J: Tensor) -> Tensor:
    """``|a ∧ b| / |a ∨ b|`` from counts, float64 ``[K, J]``; 1 for two empty masks."""
    either = a_K[:, None] + b_J[None] - both_KJ
    return torch.where(either > 0, both_KJ.double() / either.clamp(min=1), 1.0)


def _row(scope: Layout, name: str, mask_N: Tensor) -> Tensor:
    try:
        mask_N = torch.as_tensor(mask_N)
    except (TypeError, ValueError, RuntimeError):
        raise MaskError(
            f"mask {name!r} is a {type(mask_N).__name__}: give booleans, [{scope.size}]"
        ) from None
    if tuple(mask_N.shape) != (scope.size,):
        shape = tuple(mask_N.shape)
        raise MaskError(f"mask {name!r} has shape {shape}, the scope asks for ({scope.size},)")
    kept_N = mask_N.detach().bool().cpu()
    if mask_N.dtype != torch.bool and not torch.equal(mask_N.detach().cpu(), kept_N.to(mask_N.dtype)):
        raise MaskError(
            f"mask {name!r} holds other numbers than 0 and 1: make a mask of scores by pruning.prune"
        )
    return kept_N


# -- notebooks --------------------------------------------------------------------------------


def _table(title: str, names: Sequence[str], kept: Sequence[int], size: int, likeness_KK: np.ndarray) -> str:
    """An HTML table of tickets: weights kept of ``size``, likeness to the others (``[K, K]``)."""
    K = len(names)
    others_K = (likeness_KK.sum(1) - likeness_KK.diagonal()) / max(K - 1, 1)
    rows = [
        f"<tr><td>{escape(name)}</td><td>{count:,}</td><td>{count / size:.1%}</td>"
        f"<td>{f'{like:.3f}' if K > 1 else ''}</td></tr>"
        for name, count, like in list(zip(names, kept, others_K, strict=True))[:SHOWN]
    ]
    if K > SHOWN:
        rows.append(f"<tr><td colspan='4'>and {K - SHOWN} more</td></tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("ticket", "kept", "density", "mean J with others"))
    return (
        f"<p>{escape(title)}</p><table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _figure(
    names: Sequence[str], layers: Sequence[str], density_KL: np.ndarray, likeness_KK: np.ndarray
) -> Figure:
    """Heat maps: density of tickets in layers ``[K, L]``, Jaccard similarity of pairs ``[K, K]``."""
    with needs("lab", "pictures of tickets"):
        from matplotlib.figure import Figure  # only here: it takes a second to import

    K, L = density_KL.shape
    height = min(2.2 + 0.28 * K, 12)
    made = Figure((min(4 + 0.25 * L, 14) + height, height + 1), layout="constrained")
    left, right = made.subplots(1, 2, width_ratios=(min(4 + 0.25 * L, 14), height))
    # Every ticket is like itself: without the diagonal the colours are left to the pairs.
    pairs_KK = np.where(np.eye(K, dtype=bool) & (K > 1), np.nan, likeness_KK)
    for axes, values, title, columns, range_ in (
        (left, density_KL, "density by layer", layers, {"vmin": 0, "vmax": 1}),
        (right, pairs_KK, "Jaccard similarity", names, {}),
    ):
        image = axes.imshow(values, aspect="auto", cmap="cividis", **range_)
        axes.set_title(title)
        _ticks(axes.set_xticks, columns, rotation=90)
        _ticks(axes.set_yticks, names)
        made.colorbar(image, ax=axes, shrink=0.8)
    return made


def _ticks(place: object, names: Sequence[str], **style: object) -> None:
    every = range(0, len(names), -(-len(names) // 40))
    place(list(every), [names[i] for i in every], fontsize=7, **style)  # type: ignore[operator]
