"""Null trajectories: specialisation over rounds if masks were pruned at random.

Shape letters: K tickets, J twins, L layers, R rounds, M trajectories, P pairs of masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tombola.analysis.similarity import chance_corrected, contrast
from tombola.errors import MaskError, UsageError
from tombola.masks import MaskSet

Integers = NDArray[np.int64]


def null_trajectories(
    rounds: Sequence[MaskSet],
    twins: Sequence[MaskSet],
    trajectories: int = 200,
    seed: int = 0,
    layers: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """Specialisation of independent masks that lose weights at random, float64 ``[M, R]``.

    Every mask, twins included, keeps as many weights in every layer and round as the one it stands for, a
    random subset of those of the round before. What is left is what chance gives at these counts. This null
    is narrow: it says that a fall is more than the noise of sampling masks, not that a healthy search does
    not fall. For that, give `Reference.of` the specialisation of such searches.

    Time grows with trajectories x weights x masks, and x pairs of a twinned ticket with another; not with
    rounds: a weight is drawn once, by the round in which it goes.

    Args:
        rounds: the masks after each round, each a subset of those before.
        twins: their twins after the same rounds (`tombola.analysis.similarity.specialisation`).
        trajectories: how many (M); a false-alarm rate of 5% needs 38, and is steadier with 200.
        seed: of the random numbers; trajectory i does not depend on how many there are.
        layers: which layers are compared; all if absent.

    Raises:
        UsageError: no rounds, another number of rounds of twins, or no trajectories.
        MaskError: scopes, tickets or twins that change between rounds, counts that grow, an unknown layer.
        UnknownTicket: a twin without its ticket.
    """
    counts_RAL, sizes = _counts(rounds, twins)
    own = [rounds[0].index(name) for name in twins[0].names]
    K, J = len(rounds[0]), len(own)
    if trajectories < 1:
        raise UsageError(f"null trajectories are at least one: got {trajectories}")
    names = rounds[0].scope.names
    wanted = [i for i, name in enumerate(names) if layers is None or name in layers]
    if layers is not None and len(wanted) != len(set(layers)):
        raise MaskError(f"layers {list(layers)} are not all among {', '.join(names)}")
    # For twin j: its ticket, then every other ticket against its ticket. P = J K pairs.
    pairs = [(own[j], K + j if k == own[j] else k) for j in range(J) for k in range(K)]
    first, second = torch.tensor(pairs).T
    counts = torch.from_numpy(counts_RAL[:, :, wanted]).transpose(0, 1)  # [A, R, L]
    sizes_L = torch.tensor([sizes[i] for i in wanted])
    found = np.empty((trajectories, len(rounds)))
    for m in range(trajectories):
        both_PRL = torch.from_numpy(_overlaps(counts_RAL, sizes, wanted, pairs, (seed, m)))
        kappa_PR = chance_corrected(both_PRL, counts[first], counts[second], sizes_L)
        kappa_RJK = kappa_PR.view(J, K, -1).permute(2, 0, 1)
        mine = torch.nn.functional.one_hot(torch.tensor(own), K).bool()
        others = kappa_RJK.masked_fill(mine, torch.nan)
        found[m] = contrast(kappa_RJK[:, mine], others).numpy()
    return found


def _counts(rounds: Sequence[MaskSet], twins: Sequence[MaskSet]) -> tuple[Integers, tuple[int, ...]]:
    """Kept weights ``[R, K + J, L]`` of tickets and twins, checked, and the sizes of the layers."""
    if not rounds or len(rounds) != len(twins):
        raise UsageError(f"masks of {len(rounds)} rounds need as many rounds of twins: got {len(twins)}")
    scope = rounds[0].scope
    for masks, doubles in zip(rounds, twins, strict=True):
        same = masks.names == rounds[0].names and doubles.names == twins[0].names
        if not same or {masks.scope, doubles.scope} != {scope}:
            raise MaskError("tickets, twins and their scope must be the same in every round")
    counts = [torch.cat([m.counts_KL(), t.counts_KL()]) for m, t in zip(rounds, twins, strict=True)]
    counts_RAL = torch.stack(counts).numpy()
    if (np.diff(counts_RAL, axis=0) > 0).any():
        raise MaskError("a layer keeps more weights than in the round before: give the rounds in order")
    return counts_RAL, scope.sizes


def _overlaps(
    counts_RAL: Integers,
    sizes: tuple[int, ...],
    wanted: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    seed: tuple[int, int],
) -> Integers:
    """Weights that both of a pair keep, by round and layer, ``[P, R, L]``, of one random pruning."""
    R, A, _ = counts_RAL.shape
    both = np.empty((len(pairs), R, len(wanted)), dtype=np.int64)
    ends = np.arange(R + 1, dtype=np.min_scalar_type(R))
    for at, layer in enumerate(wanted):
        rng = np.random.default_rng((*seed, layer))
        # A weight's end is the round in which it goes, R if it stays: so many of each, shuffled.
        going = -np.diff(counts_RAL[:, :, layer], axis=0, prepend=sizes[layer], append=0)
        ends_AN = [rng.permutation(np.repeat(ends, going[:, a])) for a in range(A)]
        for p, (one, two) in enumerate(pairs):
            gone = np.bincount(np.minimum(ends_AN[one], ends_AN[two]), minlength=R + 1)
            both[p, :, at] = sizes[layer] - gone.cumsum()[:R]
    return both
