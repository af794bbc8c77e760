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
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tombola._utils.errors import MaskError, TombolaError, UsageError, unknown
from tombola._utils.replica import copied
from tombola._utils.torch_state import plain_name, unwrapped
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.masks.reference import changed, from_reference, put, references
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

    ``metadata["merged"][task]`` says what is kept of each change, 1 - |θ_t − merged| / |τ_t|, and its λ.

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
    if wrong := [name for name in checkpoints if not isinstance(name, str) or not name]:
        raise UsageError(f"the name of a task is a string: got {wrong[0]!r}")
    base = unwrapped(copied(base))
    if references(base):
        raise UsageError("the base is a network of tickets already: merge baked ones (tickets.bake)")
    shared = scope(base, include, exclude)
    held, found = _held(base), {}
    for name, given in checkpoints.items():
        found[name] = _opened(name, given, base, held)
    merged = _MERGED[method](shared, held, list(found.values()))
    network = from_reference(base, shared.names)
    put(network, shared.unflatten(merged.change_N))
    layout = Layout(tuple(map(changed, shared.names)), shared.shapes)
    masks = MaskSet.stacked(layout, list(found), merged.masks_KN)
    rest = [n for n in held if n not in shared.names and not n.endswith("num_batches_tracked")]
    own = [n for n in rest if any(not torch.equal(one(n), held[n]) for one in found.values())]
    scales = [f"{name.removesuffix('original')}0.scale" for name in layout.names]
    private = {
        name: {
            **{n: one(n) for n in own},
            **{n: torch.tensor(s, dtype=merged.change_N.dtype) for n in scales},
        }
        for (name, one), s in zip(found.items(), merged.scales, strict=True)
    }
    kept = zip(found, _kept(shared, held, list(found.values()), merged), merged.lambdas, strict=True)
    about = {name: {"method": method, "kept": share, "lambda": lam} for name, share, lam in kept}
    return TicketModel(network, masks, private, {"label": f"merge-{method}", "merged": about}).eval()


Read = Callable[[str], Tensor]  # a tensor of a checkpoint, by its name


def _held(base: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the base that are stored, each under its first name."""
    stored = base.state_dict().keys()  # without buffers that are made anew
    return {n: t.detach() for n, t in (*base.named_parameters(), *base.named_buffers()) if n in stored}


def _opened(name: str, given: Checkpoint, base: nn.Module, held: Mapping[str, Tensor]) -> Read:
    """A checkpoint; raises where it is of another architecture than the base."""
    if isinstance(given, str | Path):
        shapes, read = _file(Path(given), name)
    else:
        shapes, read = _tensors(given.state_dict() if isinstance(given, nn.Module) else given, name)
    others: dict[str, list[str]] = {}  # names of tied weights
    first = {id(p): n for n, p in base.named_parameters()}
    for n, p in base.named_parameters(remove_duplicate=False):
        others.setdefault(first[id(p)], []).append(n)
    where = {n: next((other for other in others.get(n, [n]) if other in shapes), n) for n in held}
    known = {*held, *base.state_dict(), *(n for each in others.values() for n in each)}
    for tensor, t in held.items():
        if where[tensor] not in shapes:
            raise MaskError(f"checkpoint {name!r} has no {tensor}: it is of another network than the base")
        if shapes[where[tensor]] != tuple(t.shape):
            here = shapes[where[tensor]]
            raise MaskError(
                f"checkpoint {name!r} has {tensor} of shape {here}, the base {tuple(t.shape)}: all are "
                "fine-tunes of one network (give the base an output layer as wide as the widest)"
            )
        tied = [other for other in others.get(tensor, []) if other in shapes]
        if any(not torch.equal(read(tied[0]), read(other)) for other in tied[1:]):
            raise MaskError(
                f"checkpoint {name!r} has weights of their own in {', '.join(tied)}, which the base ties"
            )
    if more := [n for n in shapes if n not in known]:
        raise MaskError(
            f"checkpoint {name!r} has {more[0]}, which the base has not: it is of another network"
        )

    def one(tensor: str) -> Tensor:
        found = read(where[tensor]).detach().to(held[tensor])
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise MaskError(f"checkpoint {name!r}: {tensor} holds NaN or infinity")
        return found

    return one


def _tensors(held: Any, name: str) -> tuple[dict[str, tuple[int, ...]], Read]:
    """The shapes in a state_dict, and what reads its tensors; names without those of wrappers."""
    if not isinstance(held, Mapping):
        raise UsageError(
            f"checkpoint {name!r} is a network, its state_dict or a file: got {type(held).__name__}"
        )
    nested = [key for key, value in held.items() if isinstance(value, Mapping)]
    found = {plain_name(str(n)).removeprefix("module."): t for n, t in held.items() if isinstance(t, Tensor)}
    if not found:
        hint = f": pass what it has under {nested[0]!r}" if nested else ""
        raise UsageError(f"checkpoint {name!r} holds no tensors by name{hint}")
    return {n: tuple(t.shape) for n, t in found.items()}, found.__getitem__


def _file(path: Path, name: str) -> tuple[dict[str, tuple[int, ...]], Read]:
    """The shapes in a file, and what reads its tensors; of safetensors one at a time."""
    if not path.is_file():
        raise TombolaError(f"checkpoint {name!r}: there is no file {path}")
    try:
        if path.suffix != ".safetensors":
            return _tensors(torch.load(path, map_location="cpu", weights_only=True), name)
        with safe_open(path, framework="pt") as file:
            shapes = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    except TombolaError:
        raise
    except Exception as error:  # whatever a library says of what is no checkpoint
        reason = (str(error) or type(error).__name__).splitlines()[0].partition("\x1b")[0]
        raise TombolaError(f"checkpoint {name!r}: {path} cannot be read ({reason})") from None

    def read(tensor: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(tensor)
        return found

    return shapes, read


@dataclass(frozen=True)
class Merged:
    """A shared change ``[N]``, masks ``[K, N]``, and of each task its scale and, if there is one, its λ."""

    change_N: Tensor
    masks_KN: Tensor
    scales: list[float]
    lambdas: list[float | None]


def _layers(
    scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]
) -> Iterable[tuple[slice, Tensor]]:
    """The changes of all tasks ``[K, n]``, layer by layer, and where they are in the flat vector.

    At least in single precision: squares of small changes are zero in half.
    """
    start = 0
    for name, size in zip(scope.names, scope.sizes, strict=True):
        wide = torch.promote_types(base[name].dtype, torch.float32)
        changes = [(one(name).to(wide) - base[name].to(wide)).flatten() for one in tuned]
        yield slice(start, start + size), torch.stack(changes)
        start += size


def _tall(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    sums = torch.zeros(3, len(LAMBDAS), len(tuned), dtype=torch.double)  # <τ_t, m τ>, <m τ, m τ>, <τ_t, τ_t>
    for _, tau_Kn in _layers(scope, base, tuned):
        whole_n = tau_Kn.sum(0)
        for i, lam in enumerate(LAMBDAS):
            kept_Kn = whole_n * _own(tau_Kn, whole_n, lam)
            sums[:, i] += torch.stack([(tau_Kn * kept_Kn).sum(1), (kept_Kn**2).sum(1), (tau_Kn**2).sum(1)])
    both, own, all_ = sums
    scale = torch.where(own > 0, both / own.clamp(min=1e-300), 0.0)  # the best one
    best_K = (all_ - scale * both).argmin(0)
    lambdas = [LAMBDAS[i] for i in best_K.tolist()]
    change_N, masks_KN = _empty(scope, tuned, base)
    for at, tau_Kn in _layers(scope, base, tuned):
        whole_n = tau_Kn.sum(0)
        change_N[at] = whole_n.to(change_N)
        masks_KN[:, at] = torch.stack(
            [_own(tau_n, whole_n, lam) for tau_n, lam in zip(tau_Kn, lambdas, strict=True)]
        )
    return Merged(change_N, masks_KN, scale.gather(0, best_K[None])[0].tolist(), [*lambdas])


def _own(tau_n: Tensor, whole_n: Tensor, lam: float) -> Tensor:
    """Where a change is large beside the others', of what has changed at all."""
    return (tau_n.abs() >= lam * (whole_n - tau_n).abs()) & (whole_n != 0)


def _emr(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    change_N, masks_KN = _empty(scope, tuned, base)
    above, below = (torch.zeros(len(tuned), dtype=torch.double) for _ in range(2))
    for at, tau_Kn in _layers(scope, base, tuned):
        sign_n = tau_Kn.sum(0).sign()
        elected_n = sign_n * (tau_Kn * sign_n).clamp(min=0).amax(0)
        change_N[at] = elected_n.to(change_N)
        masks_KN[:, at] = tau_Kn * elected_n > 0
        above += tau_Kn.abs().sum(1)
        below += (elected_n * masks_KN[:, at]).abs().sum(1)
    scale_K = torch.where(below > 0, above / below.clamp(min=1e-300), 0.0)
    return Merged(change_N, masks_KN, scale_K.tolist(), [None] * len(tuned))


def _ties(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    change_N, masks_KN = _empty(scope, tuned, base)
    for at, tau_Kn in _layers(scope, base, tuned):
        count = max(round((1 - TRIMMED) * tau_Kn.shape[1]), 1)
        least_K = tau_Kn.abs().topk(count, 1).values[:, -1:]
        tau_Kn = tau_Kn * (tau_Kn.abs() >= least_K)
        agree_Kn = tau_Kn * tau_Kn.sum(0).sign() > 0
        change_N[at] = ((tau_Kn * agree_Kn).sum(0) / agree_Kn.sum(0).clamp(min=1)).to(change_N)
    return _one(change_N, masks_KN)


def _mean(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read]) -> Merged:
    change_N, masks_KN = _empty(scope, tuned, base)
    for at, tau_Kn in _layers(scope, base, tuned):
        change_N[at] = tau_Kn.mean(0).to(change_N)
    return _one(change_N, masks_KN)


def _one(change_N: Tensor, masks_KN: Tensor) -> Merged:
    """One network for all tasks: every ticket keeps the whole change."""
    masks_KN[:] = change_N != 0
    return Merged(change_N, masks_KN, [1.0] * len(masks_KN), [None] * len(masks_KN))


def _empty(scope: Layout, tuned: Sequence[Read], base: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    dtype = base[scope.names[0]].dtype
    return torch.zeros(scope.size, dtype=dtype), torch.zeros(len(tuned), scope.size, dtype=torch.bool)


def _kept(scope: Layout, base: Mapping[str, Tensor], tuned: Sequence[Read], merged: Merged) -> list[float]:
    """1 - |θ_t − merged| / |τ_t| of each task as it is stored; 1 where nothing changed and nothing does."""
    away, whole = (torch.zeros(len(tuned), dtype=torch.double) for _ in range(2))
    scale_K1 = torch.tensor(merged.scales, dtype=merged.change_N.dtype)[:, None]
    for name, (at, tau_Kn) in zip(scope.names, _layers(scope, base, tuned), strict=True):
        start_n = base[name].flatten()
        made_Kn = start_n + scale_K1 * (merged.masks_KN[:, at] * merged.change_N[at])  # as the layer adds
        away += ((start_n.to(tau_Kn) + tau_Kn - made_Kn.to(tau_Kn)).double() ** 2).sum(1)
        whole += (tau_Kn.double() ** 2).sum(1)
    pairs = zip(away.tolist(), whole.tolist(), strict=True)
    return [1 - (a / w) ** 0.5 if w else float(not a) for a, w in pairs]


_MERGED: dict[str, Callable[[Layout, Mapping[str, Tensor], Sequence[Read]], Merged]] = {
    "tall": _tall,
    "emr": _emr,
    "ties": _ties,
    "mean": _mean,
}
