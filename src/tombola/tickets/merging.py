"""Fine-tunes of one network as the tickets of one file: one shared change, and a mask and a scale each.

The formulas are in `tombola.tickets.merge_methods`. Norms, biases, output layers and buffers in which
checkpoints differ are kept for each task as they are.

Shape letters: K tasks, N weights in scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import torch
from torch import nn

from tombola._utils.errors import UsageError, unknown, warn
from tombola.data.dataset import Data
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.reference import changed, from_reference, put
from tombola.objectives import Objective
from tombola.settings import TrainConfig
from tombola.tickets.checkpoints import Checkpoint, FineTunes, fine_tunes
from tombola.tickets.merge_data import Judge, choose, retrained, signed, together
from tombola.tickets.merge_methods import Merged, Method, likeness, merged
from tombola.tickets.model import TicketModel

__all__ = ["Checkpoint", "Method", "merge", "stored"]


def merge(
    base: nn.Module,
    checkpoints: Mapping[str, Checkpoint],
    method: Method = "tall",
    *,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    data: Mapping[str, Data] | None = None,
    objective: Objective | None = None,
    steps: int = 0,
    train: TrainConfig | None = None,
    seed: int = 0,
) -> TicketModel:
    """One ticket for each fine-tuned checkpoint of a network, on one shared change of it.

    Args:
        base: the network that all were fine-tuned from, with its pretrained weights.
        checkpoints: by task: a network, its ``state_dict``, a file of one (safetensors, or torch's), or a
            folder of safetensors files with their index.
        method: one of `tombola.tickets.merge_methods`.
        include: names or globs of the weights that share a change; by default matrices and kernels but the
            output layer and embeddings.
        exclude: names or globs of weights that do not.
        data: of each task, if there are any. λ and scales are chosen on their validation splits; fine-tunes
            and tickets are judged on their test splits, which decide nothing.
        objective: that of the data, such as ``Classification()``.
        steps: batches per task of joint retraining under the masks (Algorithm 2), which needs data.
        train: how to retrain.
        seed: of what ``dare`` drops, and of the order of the data.

    ``metadata["merged"][task]`` says what is ``kept`` of each change, 1 - |θ_t − merged| / |τ_t| (before any
    retraining), its ``lambda`` and ``scale``; and with data the ``metric``, its value on ``validation`` data
    for what was chosen, and on test data that of the ``fine_tune`` and of the ``ticket``.

    Raises:
        UsageError: less than two checkpoints, an unknown method, or steps without data.
        MaskError: a checkpoint of another architecture or dtype; the message names it and the tensor.
        TombolaError: a file that cannot be read.

    >>> import copy
    >>> base = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> tuned = {"mail": copy.deepcopy(base), "news": copy.deepcopy(base)}
    >>> for net in tuned.values():
    ...     _ = nn.utils.vector_to_parameters(
    ...         nn.utils.parameters_to_vector(net.parameters()) + 0.01 * torch.randn(58), net.parameters()
    ...     )
    >>> tickets = merge(base, tuned)
    >>> tickets.names, torch.equal(tickets.bake("mail")[2].weight, tuned["mail"][2].weight)
    (('mail', 'news'), True)
    """
    if method not in get_args(Method):
        raise UsageError(unknown("method", method, get_args(Method)))
    if (data is None) != (objective is None):
        raise UsageError("data and objective go together: data={task: Data}, objective=Classification()")
    if data is None and (steps or train is not None):
        raise UsageError("steps and train are of joint retraining, which needs data and objective")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise UsageError(f"steps is a number of batches, 0 or more: got {steps!r}")
    tunes = fine_tunes(base, checkpoints, include, exclude)
    judge = None
    if data is not None:
        judge = Judge.of(tunes.base, list(tunes.read), data, objective)
        if steps:
            together(judge.data)  # an error now, not after the merge
    with torch.no_grad():
        found = merged(method, tunes, seed)
        values = choose(judge, tunes, found) if judge is not None else []
        kept, sizes = likeness(tunes, found)
        _doubt(tunes, sizes)
        about: dict[str, dict[str, Any]] = {
            name: {"method": method, "kept": share, "lambda": own[0].lam, "scale": own[0].scale}
            for name, share, own in zip(tunes.read, kept, found.choices, strict=True)
        }
        tickets = _tickets(tunes, found, {"label": f"merge-{method}", "merged": about})
    if judge is None:
        return tickets
    if steps:
        tickets = retrained(tickets, judge.data, judge.objective, steps, train or TrainConfig(), seed)
    tickets.metadata["objective"] = type(judge.objective).__name__
    tickets.metadata |= judge.objective.metadata()
    for name, value in zip(tunes.read, values, strict=True):
        judge.fine_tune(tunes, name)
        metric, before = judge.quality(name, "test")
        _, after = judge.quality(name, "test", tickets.bake(name).eval())
        how = {"steps": steps} if steps else {"validation": signed(metric, value)}
        about[name] |= {"metric": metric, **how, "fine_tune": before, "ticket": after}
    return tickets


def _tickets(tunes: FineTunes, found: Merged, metadata: dict[str, Any]) -> TicketModel:
    """The ticket model of what was merged."""
    scope = tunes.scope
    layout = Layout(tuple(map(changed, scope.names)), scope.shapes)
    masks = MaskSet.stacked(layout, list(tunes.read), found.masks_KN)
    network = from_reference(tunes.base, scope.names)
    put(network, scope.unflatten(found.change_N.mul_(masks.union())))  # what none keeps is as in the base
    scales = [f"{name.removesuffix('original')}0.scale" for name in layout.names]
    private = {
        name: {
            **tunes.private(name),
            **{n: torch.tensor(own[0].scale, dtype=found.change_N.dtype) for n in scales},
        }
        for name, own in zip(tunes.read, found.choices, strict=True)
    }
    return TicketModel(network, masks, private, metadata).eval()


def _doubt(tunes: FineTunes, sizes: list[float]) -> None:
    """Warn of a checkpoint that is farther from the base than zero: two trainings of their own are."""
    for name, size in zip(tunes.read, sizes, strict=True):
        if size > 1:
            warn(
                f"checkpoint {name!r} is {size:.2f} times as far from the base as zero is: is it a fine-tune "
                "of this base, with its pretrained weights?"
            )


def stored(tickets: TicketModel, size: int) -> dict[str, int]:
    """What a merged file of so many bytes stands for, in bytes.

    ``file`` and ``per_task`` (a Kth of it), of which ``own_per_task`` are tensors of one task alone (norms,
    biases, output layer, scales); ``networks``, K whole fine-tunes; ``changes``, all that differs between the
    base and each of K fine-tunes, without masks.
    """
    K, dtype = len(tickets), tickets.backbone.get_parameter(tickets.scope.names[0]).dtype
    own = sum(t.numel() * t.element_size() for t in tickets.private_state(tickets.names[0]).values())
    scales = len(tickets.scope.names) * dtype.itemsize
    state = tickets.backbone.state_dict(keep_vars=True)
    whole = sum(t.numel() * t.element_size() for t in {id(t): t for t in state.values()}.values()) - scales
    change = tickets.scope.size * dtype.itemsize + own - scales
    return {
        "file": size,
        "per_task": -(-size // K),
        "own_per_task": own,
        "networks": K * whole,
        "changes": K * change,
    }
