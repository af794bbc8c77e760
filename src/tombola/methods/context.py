"""A network that is told which subset a sample is of (arXiv 2601.22141, Appendix C)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tombola._utils.device import device_of
from tombola._utils.errors import PartitionError, UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data, with_context
from tombola.data.partition import Partition
from tombola.methods.context_network import check_arrival, conditioned
from tombola.objectives import Objective

CONTEXT_WIDTH = 16  # length of the embedding of a context that is an input


def on_progress(
    backbone: nn.Module, objective: Objective, data: Data, partition: Partition, seed: int
) -> tuple[nn.Module, Data]:
    """The backbone with the number of the subset as an input, and data that bring it.

    Raises:
        UsageError: the subset is what the objective asks for, or the backbone cannot be told it.
        PartitionError: subsets overlap.
    """
    if objective.context_is_answer:
        raise UsageError(
            f"{type(objective).__name__} asks for the subset: a network that is told it has nothing to "
            "answer; leave out the methods that tell it"
        )
    if any(bool((members_SK.sum(1) > 1).any()) for members_SK in partition.members.values()):
        raise PartitionError(
            "subsets overlap, so a sample has no one context that could be told: leave out the methods "
            "that tell it"
        )
    wide = conditioned(backbone, len(partition), CONTEXT_WIDTH, generator(seed, "told"))
    few = torch.arange(min(2, len(data.train)))
    x = data.inputs("train", few, device=device_of(wide))
    check_arrival(wide, with_context(x, torch.ones(len(few), device=x.device)))
    contexts = {s: members_SK.int().argmax(1) for s, members_SK in partition.members.items()}
    return wide, replace(data, contexts=contexts)
