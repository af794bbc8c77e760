"""Fine-tunes of one network, the change of each stored by itself, and the bytes: rivals of a merged file.

They share no change, so they are no tickets: plain networks come back, and the bytes that they would take
beside the base, masks by the coder of ticket files.

Shape letters: K tasks, N weights in scope, n of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola._utils.errors import UsageError
from tombola._utils.replica import copied
from tombola.masks.codec import encode
from tombola.tickets.checkpoints import Checkpoint, FineTunes, fine_tunes
from tombola.tickets.merge_methods import Changes


@dataclass(frozen=True)
class OwnChanges:
    """Networks by task, and the bytes of all that is stored of them beside the base."""

    networks: dict[str, nn.Module]
    bytes: int


@torch.no_grad()
def bitdelta(
    base: nn.Module,
    checkpoints: Mapping[str, Checkpoint],
    *,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
) -> OwnChanges:
    """The sign of each change, and a scale per matrix: its mean size (BitDelta, arXiv 2402.10193).

    Scales are not distilled. A bit per weight and task is stored, a scale per matrix and task, and what each
    task has for itself: norms, biases, output layers. Arguments as of `tombola.merge`.

    >>> import copy
    >>> base = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    >>> tuned = {"a": copy.deepcopy(base), "b": copy.deepcopy(base)}
    >>> with torch.no_grad():
    ...     _ = tuned["a"][0].weight.add_(torch.tensor([[0.5, -0.5], [-0.25, 0.25]]))
    >>> (bitdelta(base, tuned).networks["a"][0].weight - base[0].weight).detach().round(decimals=4).tolist()
    [[0.375, -0.375], [-0.375, 0.375]]
    """
    tunes = fine_tunes(base, checkpoints, include, exclude)
    changes = Changes(tunes)
    signs_KN = changes.empty()[1]

    def signed(k: int, at: slice, tau_n: Tensor) -> Tensor:
        signs_KN[k, at] = tau_n > 0
        alpha = tau_n.abs().mean()
        return torch.where(signs_KN[k, at], alpha, -alpha)

    networks = _networks(tunes, changes, signed)
    scales = len(networks) * len(tunes.scope.names) * tunes.held[tunes.scope.names[0]].element_size()
    return OwnChanges(networks, _coded(signs_KN) + scales + _private(tunes))


@torch.no_grad()
def largest(
    base: nn.Module,
    checkpoints: Mapping[str, Checkpoint],
    share: float | None = None,
    *,
    at_most: int | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
) -> OwnChanges:
    """Each change cut to its largest entries: a mask and as many numbers for each task.

    Args:
        base: the network; further arguments as of `tombola.merge`.
        checkpoints: fine-tunes of it.
        share: of the weights in scope that each keeps.
        at_most: instead, so many bytes in all, such as those of a merged file: the largest share that fits.

    Raises:
        UsageError: not one of ``share`` and ``at_most``, or fewer bytes than what tasks have for themselves.
    """
    if (share is None) == (at_most is None) or not (share is None or 0 <= share <= 1):
        raise UsageError("give a share from 0 to 1 that each change keeps, or at_most, a number of bytes")
    tunes = fine_tunes(base, checkpoints, include, exclude)
    changes, K, N = Changes(tunes), len(tunes.read), tunes.scope.size
    width, beside = tunes.held[tunes.scope.names[0]].element_size(), _private(tunes)

    def masks(keep: int) -> Tensor:
        masks_KN = torch.zeros(K, N, dtype=torch.bool)
        for row, task in zip(masks_KN, tunes.read, strict=True):
            size_N = torch.cat([tau_n.abs() for _, tau_n in changes.of(task)])
            row[size_N.topk(keep).indices] = True
            row &= size_N > 0
        return masks_KN

    def bytes_of(masks_KN: Tensor) -> int:
        return _coded(masks_KN) + int(masks_KN.count_nonzero()) * width + beside

    if share is not None:
        masks_KN = masks(round(share * N))
    else:
        assert at_most is not None
        if beside > at_most:
            raise UsageError(f"at_most={at_most:,} bytes: tasks have {beside:,} for themselves already")
        low, high = 0, min(N, (at_most - beside) // (K * width))
        while high - low > N // 1000:  # to a thousandth of the weights
            middle = (low + high + 1) // 2
            low, high = (middle, high) if bytes_of(masks(middle)) <= at_most else (low, middle - 1)
        masks_KN = masks(low)
    networks = _networks(tunes, changes, lambda k, at, tau_n: tau_n * masks_KN[k, at])
    return OwnChanges(networks, bytes_of(masks_KN))


def _networks(
    tunes: FineTunes, changes: Changes, stored: Callable[[int, slice, Tensor], Tensor]
) -> dict[str, nn.Module]:
    """The base with what each task has for itself and, of each change of a layer, what is stored."""
    networks = {}
    for k, task in enumerate(tunes.read):
        networks[task] = copied(tunes.base).eval()
        networks[task].load_state_dict(tunes.private(task), strict=False)
        for name, (at, tau_n) in zip(tunes.scope.names, changes.of(task), strict=True):
            start, change_n = tunes.held[name], stored(k, at, tau_n)
            made = start.flatten().to(change_n) + change_n
            networks[task].get_parameter(name).copy_(made.view_as(start))
    return networks


def _coded(masks_KN: Tensor) -> int:
    return sum(t.nbytes for t in encode(masks_KN).values())


def _private(tunes: FineTunes) -> int:
    return len(tunes.read) * sum(tunes.held[n].nbytes for n in tunes.own)
