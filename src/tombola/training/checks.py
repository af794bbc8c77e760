"""Whether what a user brings belongs together; what does not is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tombola._utils import batch
from tombola._utils.errors import DataError, PartitionError, ScopeError, UsageError
from tombola._utils.misfit import misfit
from tombola._utils.torch_state import in_mode
from tombola.data.dataset import SPLITS, Data
from tombola.data.partition import Partition
from tombola.data.partition.partition import marks
from tombola.objectives import Objective
from tombola.training.model import FunctionalModel


def check_kinds(backbone: object, objective: object, data: object, partition: object, seed: object) -> None:
    """Raise `UsageError` where one of them is something else, or a class that was not called."""
    for name, given, kind in (
        ("backbone", backbone, nn.Module),
        ("objective", objective, Objective),
        ("data", data, Data),
        ("partition", partition, Partition),
        ("seed", seed, Integral),
    ):
        if not isinstance(given, kind):
            hint = f"; call it: {given.__name__}()" if isinstance(given, type) else ""
            raise UsageError(f"{name} must be of type {kind.__name__}: got {type(given).__name__}{hint}")
    assert isinstance(backbone, nn.Module)
    if isinstance(backbone, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UsageError(f"the backbone is wrapped in {type(backbone).__name__}: pass backbone.module")
    if next(backbone.parameters(), None) is None:
        raise UsageError("the backbone has no parameters: there is nothing to find tickets in")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in backbone.parameters()):
        raise UsageError("the backbone has lazy layers without shapes: run it once on an input first")
    for name, layer in backbone.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise UsageError(
                f"{name or 'the backbone'} is TorchScript, which cannot be copied: pass the nn.Module"
            )
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            for option in ("sparse", "max_norm"):
                if getattr(layer, option):
                    raise UsageError(
                        f"{name} is an {type(layer).__name__} with {option}={getattr(layer, option)}, which "
                        f"trains its weight apart from all others: set {name}.{option} to "
                        f"{'False' if option == 'sparse' else 'None'}"
                    )
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
            raise UsageError(
                f"{name} is an {type(layer).__name__} with track_running_stats, whose averages no ticket "
                "would have for itself: set track_running_stats=False, or use a batch norm"
            )


def check_references(f: FunctionalModel, backbone: nn.Module, x: Tensor) -> None:
    """Raise `ScopeError` where outputs depend on parameters of the backbone that are not those given to f.

    An object, or a global variable, may lead to the backbone itself, where a pass of a ticket must not read.
    """
    here = [(n, p) for m in (backbone, f.module) for n, p in m.named_parameters() if p.requires_grad]
    with in_mode(f.module, training=False), torch.enable_grad():
        found = [t for t in tree_leaves(f(f.theta0(), None, x)) if isinstance(t, Tensor) and t.requires_grad]
        if not found:
            return
        gradients = torch.autograd.grad([t.sum() for t in found], [p for _, p in here], allow_unused=True)
    wrong = [name for (name, _), g in zip(here, gradients, strict=True) if g is not None]
    if wrong:
        raise ScopeError(
            f"forward reads {wrong[0]} by another way than the attributes of its modules (an object, a "
            "global variable), so that no ticket could have its own: reach it through self"
        )


@torch.no_grad()
def check_fit(
    network: nn.Module, data: Data, partition: Partition, read: Callable[[Any], Tensor] = batch.part_of
) -> None:
    """Data, partition and network fit: lengths agree, and two samples go through.

    Args:
        network: in evaluation mode.
        data: what it should take.
        partition: of these data.
        read: the part of the outputs that counts.

    Raises:
        PartitionError: it is of other data.
        DataError: the network cannot take the data, or returns no tensor.
    """
    if missing := [split for split in SPLITS if split not in partition.members]:
        raise PartitionError(f"the partition says nothing of the {' and '.join(missing)} split")
    for split, members_SK in partition.members.items():
        if len(members_SK) != len(data.split(split)):
            raise PartitionError(
                f"the partition is of {len(members_SK)} {split} samples, the data have "
                f"{len(data.split(split))}: make it from the same data"
            )
    if partition.made_of and all(a != b for a, b in zip(partition.made_of, marks(data), strict=True)):
        raise PartitionError(
            "the partition was made from other data, or from another order of their samples (another seed of "
            "Data.of): make it from the data that you pass"
        )
    x, first = None, next(network.parameters())
    try:
        x = data.inputs("train", torch.arange(min(2, len(data.train))), device=first.device)
        outputs = batch.call(network, x)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = "check shape, dtype, prepare"
        other = {t.dtype for t in batch.tensors(x).values() if t.is_floating_point()} - {first.dtype}
        if other:
            hint = f"inputs are {other.pop()}, the backbone is {first.dtype}; cast it, or prepare inputs"
        elif x is not None:
            hint = misfit(x, network) or hint
        raise DataError(f"the backbone cannot take the data ({reason}): {hint}") from None
    outputs = read(outputs)
    if len(outputs.shape) == 0 or len(outputs) != batch.size(x):
        raise DataError(
            f"the backbone returns {tuple(outputs.shape)} for {batch.size(x)} samples: [batch, ...] is needed"
        )
