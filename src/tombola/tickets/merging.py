"""Fine-tunes of one network as the tickets of one file, without any data.

Every checkpoint is the base and a change ``τ_t = θ_t − θ_0``. One shared change, and a mask and a scale for
each task, stand for all of them: ``θ_t ≈ θ_0 + s_t · m_t ⊙ τ``.

``tall``  ``τ = Σ τ_t``; a weight is kept where ``|τ_t| ≥ λ |τ − τ_t|`` (TALL-masks, Wang et al., arXiv
          2405.07813, Eq. 4). λ and s are those of the least distance from the checkpoint.
``emr``   the sign of Σ τ_t and the largest ``|τ_t|`` of that sign; kept where signs agree, and
          ``s = Σ |τ_t| / Σ |m_t ⊙ τ|`` (EMR-Merging, Huang et al., arXiv 2405.17461).
``ties``  one network without masks: the fifth of each change that is largest, its sign elected, the mean of
          those of that sign (TIES, Yadav et al., arXiv 2306.01708).
``mean``  one network without masks: the mean (model soups, Wortsman et al., arXiv 2203.05482).

Norms, biases, output layers and buffers in which checkpoints differ are kept for each task as they are.

Shape letters: K tasks, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tombola._utils.errors import MaskError, TombolaError, UsageError, unknown
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import default_names, match
from tombola.masks.reference import changed, from_reference, put
from tombola.tickets.model import TicketModel
from tombola.training.model import check_network

Method = Literal["tall", "emr", "ties", "mean"]
Checkpoint = nn.Module | Mapping[str, Tensor] | Path | str
LAMBDAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
TRIMMED = 0.8  # share of each change that TIES leaves out


@torch.no_grad()
def merge(
    base: nn.Module,
    checkpoints: Mapping[str, Checkpoint],
    method: Method = "tall",
    *,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
) -> TicketModel:
    """One ticket for each fine-tuned checkpoint of a network, on one shared change of it.

    Args:
        base: the network that all were fine-tuned from, with its pretrained weights.
        checkpoints: by task: a network, its ``state_dict``, or a file of one (safetensors, or torch's).
        method: ``tall``, ``emr``, ``ties`` or ``mean``.
        include, exclude: names or globs of the weights that share a change; by default matrices and kernels
            but the output layer and embeddings.

    What is kept of each change is in ``metadata["merge"]``: ``kept``, 1 - |θ_t − merged| / |τ_t|, and λ.

    Raises:
        UsageError: less than two checkpoints, or an unknown method.
        MaskError: a checkpoint of another architecture; the message names it and the tensor.
        TombolaError: a file that cannot be read.

    >>> base, *tuned = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(3))
    >>> tuned = dict(zip(("mail", "news"), tuned))
    >>> tickets = merge(base, tuned)
    >>> tickets.names, torch.equal(tickets.bake("mail")[2].weight, tuned["mail"][2].weight)
    (('mail', 'news'), True)
    """
    check_network(base)
    if method not in get_args(Method):
        raise UsageError(unknown("method", method, get_args(Method)))
    if not isinstance(checkpoints, Mapping) or len(checkpoints) < 2:
        raise UsageError("merge takes at least two checkpoints, by name: {task: network, state_dict or file}")
    stored = base.state_dict().keys()  # without buffers that are made anew
    held = {n: t.detach() for n, t in (*base.named_parameters(), *base.named_buffers()) if n in stored}
    found = {name: _opened(name, one, held) for name, one in checkpoints.items()}
    scope = _scope(base, include, exclude)
    merged = _MERGED[method](scope, held, list(found.values()))
    network = from_reference(base, scope.names)
    put(network, scope.unflatten(merged.change_N))
    layout = Layout(tuple(map(changed, scope.names)), scope.shapes)
    masks = MaskSet.stacked(layout, list(found), merged.masks_KN)
    rest = [n for n in held if n not in scope.names and held[n].is_floating_point()]
    own = [n for n in rest if any(not torch.equal(one(n), held[n]) for one in found.values())]
    scales = [f"{name.removesuffix('original')}0.scale" for name in layout.names]
    private = {
        name: {
            **{n: one(n) for n in own},
            **{n: torch.tensor(s, dtype=merged.change_N.dtype) for n in scales},
        }
        for (name, one), s in zip(found.items(), merged.scales, strict=True)
    }
    about = {"method": method, "kept": dict(zip(found, merged.kept, strict=True)), "lambda": merged.lambdas}
    metadata = {"label": f"merge-{method}", "merge": about}
    return TicketModel(network, masks, private, metadata).eval()


Read = Callable[[str], Tensor]  # a tensor of a checkpoint, by its name


def _opened(name: str, given: Checkpoint, base: Mapping[str, Tensor]) -> Read:
    """A checkpoint; raises where it is of another architecture than the base."""
    if isinstance(given, str | Path):
        shapes, read = _file(Path(given), name)
    else:
        held = given.state_dict() if isinstance(given, nn.Module) else given
        shapes, read = {n: tuple(t.shape) for n, t in held.items()}, held.__getitem__
    for tensor, t in base.items():
        if tensor not in shapes:
            raise MaskError(f"checkpoint {name!r} has no {tensor}: it is of another network than the base")
        if shapes[tensor] != tuple(t.shape):
            raise MaskError(
                f"checkpoint {name!r} has {tensor} of shape {shapes[tensor]}, the base {tuple(t.shape)}: all "
                "are fine-tunes of one network (give the base an output layer as wide as the widest)"
            )
    return lambda tensor: read(tensor).detach().to(base[tensor])


def _file(path: Path, name: str) -> tuple[dict[str, tuple[int, ...]], Read]:
    """The shapes in a file, and what reads its tensors; of safetensors one at a time."""
    if not path.is_file():
        raise TombolaError(f"checkpoint {name!r}: there is no file {path}")
    try:
        if path.suffix != ".safetensors":
            held = torch.load(path, map_location="cpu", weights_only=True)
            return {n: tuple(t.shape) for n, t in held.items()}, held.__getitem__
        with safe_open(path, framework="pt") as file:
            shapes = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever a library says of what is no checkpoint
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TombolaError(f"checkpoint {name!r}: {path} cannot be read ({reason})") from None

    def read(tensor: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(tensor)
        return found

    return shapes, read


def _scope(base: nn.Module, include: Iterable[str] | None, exclude: Iterable[str]) -> Layout:
    parameters = dict(base.named_parameters())
    wanted = default_names(base) if include is None else match(parameters, include)
    dropped = match(parameters, exclude)
    return Layout.of({n: p for n, p in parameters.items() if n in wanted and n not in dropped})


@dataclass(frozen=True)
class Merged:
    """A shared change ``[N]``, masks ``[K, N]``, and of each task its scale, what is kept, and its λ."""

    change_N: Tensor
    masks_KN: Tensor
    scales: list[float]
    kept: list[float]
    lambdas: list[float]


def _layers(
    scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]
) -> Iterable[tuple[slice, Tensor]]:
    """The changes of all tasks ``[K, n]``, layer by layer, and where they are in the flat vector."""
    start = 0
    for name, size in zip(scope.names, scope.sizes, strict=True):
        yield slice(start, start + size), torch.stack([(one(name) - base[name]).flatten() for one in tuned])
        start += size


def _tall(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    K = len(tuned)
    sums = torch.zeros(3, len(LAMBDAS), K, dtype=torch.double)  # <τ_t, m τ>, <m τ, m τ>, <τ_t, τ_t>
    for _, tau_Kn in _layers(scope, base, tuned):
        whole_n = tau_Kn.sum(0)
        for i, lam in enumerate(LAMBDAS):
            kept_Kn = whole_n * (tau_Kn.abs() >= lam * (whole_n - tau_Kn).abs())
            sums[:, i] += torch.stack([(tau_Kn * kept_Kn).sum(1), (kept_Kn**2).sum(1), (tau_Kn**2).sum(1)])
    both, own, all_ = sums
    error = all_ - both**2 / own.clamp(min=1e-300)  # of the best scale
    best_K = error.argmin(0)
    scale_K = (both / own.clamp(min=1e-300)).gather(0, best_K[None])[0]
    lam_K = torch.tensor(LAMBDAS)[best_K]
    change_N, masks_KN = _empty(scope, tuned, base)
    for at, tau_Kn in _layers(scope, base, tuned):
        change_N[at] = tau_Kn.sum(0)
        masks_KN[:, at] = tau_Kn.abs() >= lam_K[:, None] * (change_N[at] - tau_Kn).abs()
    left = (error.gather(0, best_K[None])[0].clamp(min=0) / all_[0].clamp(min=1e-300)).sqrt()
    return Merged(
        change_N, masks_KN, scale_K.tolist(), (1 - left).tolist(), [LAMBDAS[i] for i in best_K.tolist()]
    )


def _emr(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    change_N, masks_KN = _empty(scope, tuned, base)
    above, below = (torch.zeros(len(tuned), dtype=torch.double) for _ in range(2))
    for at, tau_Kn in _layers(scope, base, tuned):
        sign_n = tau_Kn.sum(0).sign()
        change_N[at] = sign_n * (tau_Kn * sign_n).clamp(min=0).amax(0)
        masks_KN[:, at] = tau_Kn * change_N[at] > 0
        above += tau_Kn.abs().sum(1)
        below += (change_N[at] * masks_KN[:, at]).abs().sum(1)
    scales = (above / below.clamp(min=1e-300)).tolist()
    return Merged(change_N, masks_KN, scales, _kept(scope, base, tuned, change_N, masks_KN, scales), [])


def _ties(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    change_N, masks_KN = _empty(scope, tuned, base)
    for at, tau_Kn in _layers(scope, base, tuned):
        count = max(round((1 - TRIMMED) * tau_Kn.shape[1]), 1)
        least_K = tau_Kn.abs().topk(count, 1).values[:, -1:]
        tau_Kn = tau_Kn * (tau_Kn.abs() >= least_K)
        agree_Kn = tau_Kn * tau_Kn.sum(0).sign() > 0
        change_N[at] = (tau_Kn * agree_Kn).sum(0) / agree_Kn.sum(0).clamp(min=1)
    return _one(scope, base, tuned, change_N, masks_KN)


def _mean(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    change_N, masks_KN = _empty(scope, tuned, base)
    for at, tau_Kn in _layers(scope, base, tuned):
        change_N[at] = tau_Kn.mean(0)
    return _one(scope, base, tuned, change_N, masks_KN)


def _one(
    scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read], change_N: Tensor, masks_KN: Tensor
) -> Merged:
    """One network for all tasks: every ticket keeps the whole change."""
    masks_KN[:] = change_N != 0
    scales = [1.0] * len(tuned)
    return Merged(change_N, masks_KN, scales, _kept(scope, base, tuned, change_N, masks_KN, scales), [])


def _empty(scope: Layout, tuned: Sequence[Read], base: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    dtype = base[scope.names[0]].dtype
    return torch.zeros(scope.size, dtype=dtype), torch.zeros(len(tuned), scope.size, dtype=torch.bool)


def _kept(
    scope: Layout,
    base: Mapping[str, Tensor],
    tuned: Sequence[Read],
    change_N: Tensor,
    masks_KN: Tensor,
    scales: Sequence[float],
) -> list[float]:
    away, whole = (torch.zeros(len(tuned), dtype=torch.double) for _ in range(2))
    for at, tau_Kn in _layers(scope, base, tuned):
        made_Kn = torch.tensor(scales, dtype=tau_Kn.dtype)[:, None] * masks_KN[:, at] * change_N[at]
        away += ((tau_Kn - made_Kn) ** 2).sum(1)
        whole += (tau_Kn**2).sum(1)
    return [float(k) for k in 1 - (away / whole.clamp(min=1e-300)).sqrt()]


_MERGED: dict[str, Callable[[Layout, Mapping[str, Tensor], Sequence[Read]], Merged]] = {
    "tall": _tall,
    "emr": _emr,
    "ties": _ties,
    "mean": _mean,
}
