"""Optimisers that touch only what the ticket owns.

Masking the gradient is not enough: the momentum of one ticket moves weights of another, and a zero
gradient decays moments that were not trained. Here a step changes exactly the entries that the masks
name. Everything else, the parameter, its moments and its step count, keeps its bits: every entry
behaves as if it were a parameter of its own that skips the steps which do not concern it (the
semantics of ``torch.optim.SparseAdam``).

    optimizer = masked(torch.optim.Adam(parameters, lr=1e-3))
    loss.backward()
    optimizer.step([mask_or_None for each parameter])
"""

from __future__ import annotations

from typing import Any

import torch

from tombola._utils.errors import OptimizerError
from tombola.optim.adam import MaskedAdam
from tombola.optim.base import MaskedOptimizer, MaskedStepFree, Tickets

__all__ = ["ADAM", "STEP_FREE", "MaskedOptimizer", "masked"]

# Optimisers whose update is elementwise and never reads a step count: any entry can skip a step.
STEP_FREE: dict[type[torch.optim.Optimizer], dict[str, Any]] = {
    torch.optim.SGD: {"dampening": 0},
    torch.optim.RMSprop: {},
    torch.optim.Adagrad: {"lr_decay": 0},
    torch.optim.Adadelta: {},
}
ADAM = (torch.optim.Adam, torch.optim.AdamW)
_SUPPORTED = ", ".join(kind.__name__ for kind in (*ADAM, *STEP_FREE))


def masked(optimizer: torch.optim.Optimizer, tickets: Tickets | None = None) -> MaskedOptimizer:
    """The masked form of a ``torch.optim`` optimiser that has not stepped yet.

    Args:
        optimizer: of any parameters.
        tickets: whose parameters these are. Then ``step()`` and ``step(closure)`` step inside the ticket that
            is in use (`tombola.TicketModel.use`), in whoever's loop.

    Raises:
        OptimizerError: the optimiser, or an option of it, cannot be masked exactly.

    >>> w = torch.ones(3, requires_grad=True)
    >>> optimizer = masked(torch.optim.SGD([w], lr=0.5))
    >>> w.sum().backward()
    >>> optimizer.step([torch.tensor([True, False, True])])
    >>> w.tolist()
    [0.5, 1.0, 0.5]
    """
    kind = type(optimizer)
    if kind not in ADAM and kind not in STEP_FREE:
        raise OptimizerError(
            f"{kind.__name__} cannot be masked exactly (its update mixes entries, or counts steps for a "
            f"whole tensor); use one of {_SUPPORTED}"
        )
    # Adagrad alone has a state before its first step: a step count of 0 and the initial sums.
    if any(state.get("step", 1) > 0 for state in optimizer.state.values() if state):
        raise OptimizerError(f"this {kind.__name__} has already stepped: mask a new one")
    needed = {"amsgrad": False, "maximize": False} if kind in ADAM else STEP_FREE[kind]
    for group in optimizer.param_groups:
        _refuse(kind, group, {**needed, "differentiable": False})
        if any(p.is_complex() for p in group["params"]):
            raise OptimizerError("complex parameters cannot be masked: optimise torch.view_as_real of them")
    if tickets is not None:
        _check_owned(optimizer, tickets)
    made = MaskedAdam(optimizer) if kind in ADAM else MaskedStepFree(optimizer)
    made.tickets = tickets
    return made


def _check_owned(optimizer: torch.optim.Optimizer, tickets: Tickets) -> None:
    """Raise `OptimizerError` unless the optimiser steps parameters of the tickets, and no others."""
    if not isinstance(tickets, torch.nn.Module):
        raise OptimizerError(f"tickets are a TicketModel: got {type(tickets).__name__}")
    own = set(map(id, tickets.parameters()))
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(p) not in own for p in given):
        raise OptimizerError(
            "the optimiser steps other parameters than those of the tickets, such as those of the network "
            "that they were made from: make it of tickets.parameters()"
        )


def _refuse(kind: type, group: dict[str, Any], needed: dict[str, Any]) -> None:
    for option, value in needed.items():
        if group.get(option, value) != value:
            raise OptimizerError(
                f"{kind.__name__}({option}={group[option]!r}) cannot be masked exactly; leave "
                f"{option}={value!r}"
            )
