"""Modules whose parameters are shared out over processes: ``torch.distributed.fsdp.fully_shard`` (FSDP2).

Each process has a shard of every parameter, a `DTensor`; while the module is called, whole ones stand in
their place. An update that goes entry by entry is one of the shards by themselves.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from tombola._utils.errors import ScopeError
from tombola._utils.replica import Tree

# Of modules whose state is asked for or loaded.
HOOKS = ("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has a shard of it alone."""
    module = sys.modules.get("torch.distributed.tensor")  # which takes a while to import
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Any:
    """What this process has of a tensor: its shard, in the same memory, or all of it."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def placed(whole: Tensor | None, like: Any) -> Tensor | None:
    """A tensor that all processes have, as another one is placed; nothing is sent."""
    if whole is None or not is_sharded(like) or is_sharded(whole):
        return whole
    from torch.distributed.tensor import distribute_tensor

    made: Tensor = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return made


def check_whole(tensors: Mapping[str, Tensor], remedy: str) -> None:
    """Raise `ScopeError` where one of them is a shard."""
    for name in filter(lambda name: is_sharded(tensors[name]), tensors):
        raise ScopeError(f"{name} is sharded over processes (fully_shard): {remedy}")


def in_shards(module: nn.Module) -> bool:
    """Whether it is a module of ``fully_shard``, also while whole parameters stand in it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, getattr(fsdp, "FSDPModule", ()))


def writes(module: nn.Module) -> bool:
    """Whether this process writes the files of a module: the first one, where it is sharded."""
    return not in_shards(module) or dist.get_rank() == 0


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, by itself and without a graph; all processes call this together."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full.detach().clone()


def whole_module(module: nn.Module) -> nn.Module:
    """A copy of a part of a sharded module, with all of its parameters; all processes call this together."""
    parameters = {n: nn.Parameter(whole(p), p.requires_grad) for n, p in module.named_parameters()}
    made = Tree(module).replica(parameters | {n: whole(b) for n, b in module.named_buffers()}).module
    for part in made.modules():
        for name in HOOKS:
            hooks = part.__dict__[name].items()  # those of FSDP would shard what they know
            part.__dict__[name] = OrderedDict((key, hook) for key, hook in hooks if not _of_fsdp(hook))
    return made


def _of_fsdp(hook: Any) -> bool:
    return str(getattr(getattr(hook, "hook", hook), "__module__", "")).startswith("torch.distributed.fsdp")
