"""How K changes of one network become one shared change, by the formulas of the papers.

Every checkpoint is the base and a change ``τ_t = θ_t − θ_0``. One shared change τ, and a mask and a scale for
each task, stand for all of them: ``θ_t ≈ θ_0 + s_t · m_t ⊙ τ``.

``tall``       ``τ = Σ τ_t``; a weight is kept where ``|τ_t| ≥ λ |τ − τ_t|`` (TALL-masks, Wang et al., arXiv
               2405.07813, Eq. 4). λ is that of the least distance from the checkpoint, s as of ``emr``: the
               scale of the least distance is too small where tasks disagree.
``emr``        the sign of Σ τ_t and the largest ``|τ_t|`` of that sign; kept where signs agree, and
               ``s = Σ |τ_t| / Σ |m_t ⊙ τ|`` (EMR-Merging, Huang et al., arXiv 2405.17461).

The others make one network for all tasks, without masks:

``ties``       the fifth of each change that is largest, its sign elected, the mean of those of that sign
               (TIES, Yadav et al., arXiv 2306.01708).
``dare``       the mean of changes of which a random nine tenths are dropped, the rest ten times as large
               (DARE, Yu et al., arXiv 2311.03099).
``dare_ties``  ``ties`` of such changes.
``mean``       the mean (model soups, Wortsman et al., arXiv 2203.05482).
``sum``        the sum times a factor (task arithmetic, Ilharco et al., arXiv 2212.04089).

Shape letters: K tasks, N weights in scope, n of one layer, L candidates for λ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tombola._utils.rng import generator
from tombola.tickets.checkpoints import FineTunes, Read

Method = Literal["tall", "emr", "ties", "dare", "dare_ties", "mean", "sum"]
LAMBDAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
TRIMMED = 0.8  # share of each change that TIES leaves out
DROPPED = 0.9  # share that DARE drops
SUMMED = 0.4  # factor on the sum, a usual one, where there are no data to choose it on


class Choice(NamedTuple):
    """How a task reads the shared change: λ of its mask, where it has one, and its scale."""

    lam: float | None
    scale: float


@dataclass(frozen=True)
class Changes:
    """The changes of all tasks, read layer by layer.

    At least in single precision: squares of small changes are zero in half. With ``dropped`` so large a share
    of each is zero, drawn by the seed, the task and the layer, and the rest is scaled up.
    """

    tunes: FineTunes
    dropped: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.tunes.read)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Where a layer is in the flat vector, and its changes ``[K, n]``."""
        for i, (start, end) in enumerate(self._bounds()):
            yield slice(start, end), torch.stack([self._change(i, task) for task in self.tunes.read])

    def of(self, task: str) -> Iterator[tuple[slice, Tensor]]:
        """The same of one task, ``[n]``."""
        for i, (start, end) in enumerate(self._bounds()):
            yield slice(start, end), self._change(i, task)

    def _bounds(self) -> Iterator[tuple[int, int]]:
        return pairwise(self.tunes.scope.bounds)

    def _change(self, i: int, task: str) -> Tensor:
        name = self.tunes.scope.names[i]
        start, read = self.tunes.held[name], self.tunes.read[task]
        change_n = _wide(name, read, start).flatten()
        if not self.dropped:
            return change_n
        keep = 1 - self.dropped
        drawn_n = torch.rand(len(change_n), generator=generator(self.seed, "dare", task, name))
        return change_n * (drawn_n < keep).to(change_n) / keep

    def empty(self) -> tuple[Tensor, Tensor]:
        """A shared change ``[N]`` in the dtype of the base, and masks ``[K, N]``."""
        scope, held = self.tunes.scope, self.tunes.held
        dtype = held[scope.names[0]].dtype
        return torch.zeros(scope.size, dtype=dtype), torch.zeros(len(self), scope.size, dtype=torch.bool)


def _wide(name: str, read: Read, start: Tensor) -> Tensor:
    dtype = torch.promote_types(start.dtype, torch.float32)
    return read(name).to(dtype) - start.to(dtype)


@dataclass(frozen=True)
class Merged:
    """A shared change ``[N]``, masks ``[K, N]``, and for each task choices of λ and scale.

    The first choice is the one in use. The others of ``tall`` follow by the distance of their λ: with
    the scale of ``emr``, which keeps the size of a change, then with the one nearest to the checkpoint.
    ``common`` says that one network stands for all tasks.
    """

    change_N: Tensor
    masks_KN: Tensor
    choices: list[list[Choice]]
    common: bool = False

    def choose(self, changes: Changes, k: int, choice: Choice) -> None:
        """Take another choice for task k, its mask too."""
        task, others = list(changes.tunes.read)[k], self.choices[k]
        if choice.lam is not None and choice.lam != others[0].lam:
            for at, tau_n in changes.of(task):
                self.masks_KN[k, at] = kept(tau_n, self.change_N[at].to(tau_n), choice.lam)
        self.choices[k] = [choice, *(other for other in others if other != choice)]


def tall(changes: Changes) -> Merged:
    """A mask of the sum where a task's own change is large beside the others'."""
    K, names = len(changes), list(changes.tunes.read)
    # Of the weights of each task, by how many of the λ keep them: <τ_t, τ>, <τ, τ> and Σ |τ|.
    sums, size_K1 = torch.zeros(3, K, len(LAMBDAS) + 1, dtype=torch.double), torch.zeros(K, 1).double()
    change_N, masks_KN = changes.empty()
    for at, tau_Kn in changes:
        change_N[at] = tau_Kn.sum(0).to(change_N)
        whole_n = change_N[at].to(tau_Kn)  # as it is stored
        size_K1 += tau_Kn.abs().sum(1, keepdim=True)
        limits = torch.tensor(LAMBDAS, dtype=tau_Kn.dtype)
        for k, tau_n in enumerate(tau_Kn):
            ratio_n = tau_n.abs() / (whole_n - tau_n).abs()  # infinite where it is alone, NaN where none is
            count_n = torch.bucketize(ratio_n.nan_to_num(0, torch.inf), limits, right=True)
            wide_n = whole_n.double()
            for i, value_n in enumerate((tau_n * wide_n, wide_n**2, wide_n.abs())):
                sums[i, k] += torch.bincount(count_n, value_n, len(LAMBDAS) + 1)
    both_KL, own_KL, kept_KL = (
        sums.flip(-1).cumsum(-1).flip(-1)[:, :, 1:]
    )  # <τ_t, m τ>, <m τ, m τ>, Σ |m τ| by λ
    scale_KL = torch.where(own_KL > 0, both_KL / own_KL.clamp(min=1e-300), 0.0)  # the nearest one
    alike_KL = torch.where(own_KL > 0, size_K1 / kept_KL.clamp(min=1e-300), 0.0)  # of the change's own size
    near_KL = (-scale_KL * both_KL).argsort(dim=1, stable=True)  # |τ_t − s m τ|² but for |τ_t|²
    choices = [
        [Choice(LAMBDAS[i], float(s_KL[k, i])) for s_KL in (alike_KL, scale_KL) for i in near_KL[k].tolist()]
        for k in range(K)
    ]
    for k, name in enumerate(names):
        for at, tau_n in changes.of(name):
            masks_KN[k, at] = kept(tau_n, change_N[at].to(tau_n), choices[k][0].lam or 0.0)
    return Merged(change_N, masks_KN, choices)


def kept(tau_n: Tensor, whole_n: Tensor, lam: float) -> Tensor:
    """Where a change is large beside the others', of what has changed at all."""
    return (tau_n.abs() >= lam * (whole_n - tau_n).abs()) & (whole_n != 0)


def emr(changes: Changes) -> Merged:
    """The elected sign and the largest change of that sign; a mask where signs agree."""
    change_N, masks_KN = changes.empty()
    above_K, below_K = (torch.zeros(len(changes), dtype=torch.double) for _ in range(2))
    for at, tau_Kn in changes:
        sign_n = tau_Kn.sum(0).sign()
        elected_n = sign_n * (tau_Kn * sign_n).clamp(min=0).amax(0)
        change_N[at] = elected_n.to(change_N)
        masks_KN[:, at] = tau_Kn * elected_n > 0
        above_K += tau_Kn.abs().sum(1)
        below_K += (elected_n * masks_KN[:, at]).abs().sum(1)
    scale_K = torch.where(below_K > 0, above_K / below_K.clamp(min=1e-300), 0.0)
    return Merged(change_N, masks_KN, [[Choice(None, s)] for s in scale_K.tolist()])


def ties(changes: Changes) -> Merged:
    """The largest fifth of each change, its sign elected, the mean of those of that sign."""
    least_K = torch.stack([_least(changes, task) for task in changes.tunes.read])[:, None]
    change_N, masks_KN = changes.empty()
    for at, tau_Kn in changes:
        tau_Kn = tau_Kn * (tau_Kn.abs() >= least_K)
        agree_Kn = tau_Kn * tau_Kn.sum(0).sign() > 0
        change_N[at] = ((tau_Kn * agree_Kn).sum(0) / agree_Kn.sum(0).clamp(min=1)).to(change_N)
    return _one(change_N, masks_KN)


def _least(changes: Changes, task: str, share: float = 1 - TRIMMED) -> Tensor:
    """The least of the largest entries of a change, so large a share of all."""
    size_N = torch.cat([tau_n.abs() for _, tau_n in changes.of(task)])
    place = len(size_N) - max(round(share * len(size_N)), 1)
    size_N.numpy().partition(place)  # in place: torch's kthvalue makes a copy, and places of eight bytes each
    return size_N[place]


def mean(changes: Changes) -> Merged:
    """The mean of the changes."""
    change_N, masks_KN = changes.empty()
    for at, tau_Kn in changes:
        change_N[at] = tau_Kn.mean(0).to(change_N)
    return _one(change_N, masks_KN)


def summed(changes: Changes) -> Merged:
    """The sum of the changes, times `SUMMED`."""
    change_N, masks_KN = changes.empty()
    for at, tau_Kn in changes:
        change_N[at] = tau_Kn.sum(0).to(change_N)
    return _one(change_N, masks_KN, SUMMED)


def _one(change_N: Tensor, masks_KN: Tensor, scale: float = 1.0) -> Merged:
    """One network for all tasks: every ticket keeps the whole change."""
    masks_KN[:] = change_N != 0
    return Merged(change_N, masks_KN, [[Choice(None, scale)] for _ in masks_KN], common=True)


def merged(method: Method, tunes: FineTunes, seed: int) -> Merged:
    """Fine-tunes, merged by a method; the seed is that of what DARE drops."""
    changes = Changes(tunes, DROPPED if method.startswith("dare") else 0.0, seed)
    return _FORMULAS[method](changes)


def likeness(tunes: FineTunes, merged: Merged) -> tuple[list[float], list[float]]:
    """Of each task ``1 − |θ_t − merged| / |τ_t|`` as it is stored, and ``|τ_t| / |θ_0|``.

    The first is 1 where nothing changed and nothing does.
    """
    away_K, whole_K = (torch.zeros(len(tunes.read), dtype=torch.double) for _ in range(2))
    first = torch.zeros((), dtype=torch.double)
    scale_K1 = torch.tensor([own[0].scale for own in merged.choices], dtype=merged.change_N.dtype)[:, None]
    for name, (at, tau_Kn) in zip(tunes.scope.names, Changes(tunes), strict=True):
        start_n = tunes.held[name].flatten()
        made_Kn = start_n + scale_K1 * (merged.masks_KN[:, at] * merged.change_N[at])  # as the layer adds
        away_K += ((start_n.to(tau_Kn) + tau_Kn - made_Kn.to(tau_Kn)).double() ** 2).sum(1)
        whole_K += (tau_Kn.double() ** 2).sum(1)
        first += (start_n.double() ** 2).sum()
    pairs = zip(away_K.tolist(), whole_K.tolist(), strict=True)
    shares = [1 - (a / w) ** 0.5 if w else float(not a) for a, w in pairs]
    return shares, (whole_K / first.clamp(min=1e-300)).sqrt().tolist()


_FORMULAS: dict[str, Callable[[Changes], Merged]] = {
    "tall": tall,
    "emr": emr,
    "ties": ties,
    "dare": mean,
    "dare_ties": ties,
    "mean": mean,
    "sum": summed,
}
