"""Normalisation is a policy, stated, never an accident.

- ``shared``: all tickets use one set of running statistics and one affine part.
- ``per_ticket_statistics``: each ticket has its own running statistics (the default).
- ``per_ticket``: its own affine part as well, trained with the ticket; that of norms without running
  statistics too (layer, group, instance, root mean square).
- ``frozen``: norms stay in evaluation mode while tickets are trained, and keep the statistics they came with.

A norm that the network itself keeps in evaluation mode (its ``train`` says so) is frozen under every policy.

While K tickets train on shared weights, running averages are nobody's. So statistics are estimated
afresh after training, as plain means over batches of the tickets' own training data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tombola._utils.batch import Batch
from tombola._utils.errors import UsageError, unknown
from tombola._utils.torch_state import in_mode
from tombola.masks.prunable import is_norm
from tombola.training.model import FunctionalModel, Params, norms

Policy = Literal["shared", "per_ticket_statistics", "per_ticket", "frozen"]


def check(policy: str) -> Policy:
    """The policy, or an error that lists them."""
    if policy not in get_args(Policy):
        raise UsageError(unknown("normalisation policy", policy, get_args(Policy)))
    return policy  # type: ignore[return-value]


def private_parameters(module: nn.Module, policy: Policy) -> set[str]:
    """Names of the norm parameters that the policy makes private."""
    if policy != "per_ticket":
        return set()
    layers = [(name, layer) for name, layer in module.named_modules() if is_norm(layer)]
    return {f"{name}.{p}" if name else p for name, layer in layers for p, _ in layer.named_parameters()}


def moving(module: nn.Module) -> list[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """The norms whose running statistics move in training, with their names."""
    with in_mode(module, training=True):
        return [(name, layer) for name, layer in norms(module) if layer.training]


def statistics_names(module: nn.Module) -> list[str]:
    """Names of the running means and variances that move in training, and of the counts of plain means."""
    return [
        f"{name}.{statistic}"
        for name, layer in moving(module)
        for statistic in ("running_mean", "running_var", "num_batches_tracked")
        if statistic != "num_batches_tracked" or layer.momentum is None
    ]


@torch.no_grad()
def estimate(
    f: FunctionalModel, theta: Params, passes: Iterable[tuple[int, Tensor | None, Batch]]
) -> dict[str, Tensor]:
    """Running statistics from passes ``(k, m_k, x)``: the mean over batches, each batch counted alike.

    Only the norm layers see training mode, so dropout stays off. Returns the buffers of
    `statistics_names`; theta and its buffers keep their bits.
    """
    layers = [layer for _, layer in moving(f.module)]
    wanted = statistics_names(f.module)
    if not wanted:
        return {}
    fresh = Params(theta.weights_N, theta.shared_R, theta.private, {})
    fresh.buffers = {n: b.clone() for n, b in theta.buffers.items()}
    for name, _ in moving(f.module):
        for statistic in ("running_mean", "running_var", "num_batches_tracked"):
            fresh.buffers[f"{name}.{statistic}"].zero_()
    momenta = [layer.momentum for layer in layers]
    with in_mode(f.module, training=False):
        try:
            for layer in layers:
                layer.train()
                layer.momentum = None  # a plain mean instead of a moving one
            for k, mask_N, x in passes:
                f(fresh, mask_N, x, k)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    return {name: fresh.buffers[name] for name in wanted}
