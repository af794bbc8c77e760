"""Masked optimisers: masks are checked, state has stable names, what is left out keeps its bits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tombola._utils.errors import OptimizerError
from tombola._utils.sharded import local, placed

Entries = list[tuple[dict[str, Any], Tensor, Tensor | None]]  # group, parameter, mask
Masks = Sequence[Tensor | None]  # one per parameter; None: everywhere
Closure = Callable[[], Any]
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


class Tickets(Protocol):
    """What knows the masks of the ticket that is trained (`tombola.TicketModel`)."""

    def masks_of(self, parameters: Sequence[Tensor]) -> Masks | None:
        """One per parameter; None outside of ``with tickets.use(NAME):``."""


class MaskedOptimizer(torch.optim.Optimizer):
    """A ``torch.optim`` optimiser whose step takes a mask per parameter.

    Attributes:
        tickets: whose ticket in use gives the masks of steps that are given none. Trainers that know nothing
            of tickets call ``step()`` or ``step(closure)``.
        masks: those of steps that are given none while no ticket is in use.
    """

    masks: Masks | None = None
    tickets: Tickets | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "masks": self.masks, "tickets": self.tickets}

    def step(self, masks: Masks | Closure | None = None, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Step every parameter that has a gradient, inside its mask (None: everywhere).

        Args:
            masks: one entry per parameter, in the order the optimiser got them: None or a boolean
                tensor of the parameter's shape; by default those of the ticket in use, or ``self.masks``.
            closure: computes the loss anew, with gradients, before the step; it may come first, as in torch.

        Returns:
            The closure's loss.

        Raises:
            OptimizerError: there are no masks, or they do not fit.
        """
        if callable(masks):
            masks, closure = None, masks
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if masks is None and self.tickets is not None:
            masks = self.tickets.masks_of(self._parameters())
        if masks is None:
            masks = self.masks
        if masks is None:
            raise OptimizerError(
                "a step without masks would move weights of other tickets: step inside `with "
                "tickets.use(NAME):` (masked(optimizer, tickets)), set optimizer.masks, or step([None, ...])"
            )
        with torch.no_grad():
            self._step(masks)
        return loss

    @abstractmethod
    def _step(self, masks: Masks) -> None:
        """Step inside the masks."""

    def tensors(self) -> dict[str, Tensor]:
        """The state under stable names, for checkpoints: the tensors themselves, which steps change."""
        return {
            f"{i}.{key}": value
            for i, p in enumerate(self._parameters())
            for key, value in self.state.get(p, {}).items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`: the state becomes a copy of these, nothing of the old one stays."""
        parameters = self._parameters()
        self.state.clear()
        for name, value in tensors.items():
            i, key = name.split(".", 1)
            p = parameters[int(i)]
            self.state[p][key] = value.to(p.device, copy=True)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _entries(self, masks: Masks) -> Entries:
        """What is stepped: group, parameter, and the part of its mask that this process has of it."""
        parameters = self._parameters()
        if len(masks) != len(parameters):
            raise OptimizerError(f"{len(masks)} masks for {len(parameters)} parameters: one each is needed")
        groups = [group for group in self.param_groups for _ in group["params"]]
        for p, m in zip(parameters, masks, strict=True):
            if m is not None and (m.shape != p.shape or m.dtype != torch.bool):
                raise OptimizerError(
                    f"a mask of {m.dtype} {tuple(m.shape)} does not fit a parameter of shape "
                    f"{tuple(p.shape)}: it must be boolean and of that shape"
                )
        work = zip(groups, parameters, masks, strict=True)
        return [(g, p, local(placed(m, p))) for g, p, m in work if p.grad is not None and p.numel()]


class MaskedStepFree(MaskedOptimizer):
    """An optimiser whose update is elementwise and reads no step count: it steps as it is, and then entries
    outside the mask go back.
    """

    def __init__(self, plain: torch.optim.Optimizer) -> None:
        super().__init__(plain.param_groups, plain.defaults)
        self.state.update(plain.state)  # Adagrad's sums
        self.plain = plain

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "plain": self.plain}

    def _step(self, masks: Masks) -> None:
        work = [(p, mask) for _, p, mask in self._entries(masks) if mask is not None]
        before = [(p, mask, local(p).clone(), self._moments(p, clone=True)) for p, mask in work]
        self.plain.param_groups, self.plain.state = self.param_groups, self.state
        self.plain.in_masks = True  # type: ignore[attr-defined]  # `tombola.tickets.passes` looks
        self.plain.step()
        for p, mask, p_old, state_old in before:
            outside = bits_of(~mask, p)
            put(local(p), p_old, outside)
            for key, value in self._moments(p).items():
                put(value, state_old.get(key, torch.zeros_like(value)), outside)

    def _moments(self, p: Tensor, clone: bool = False) -> dict[str, Tensor]:
        state = self.state[p].items()  # "step" counts for the whole tensor, and no update reads it
        moments = {k: local(v) for k, v in state if isinstance(v, Tensor) and k != "step"}
        return {k: v.clone() for k, v in moments.items()} if clone else moments


# Arithmetic on the bits of numbers, as `torch.where` branches at every entry on a CPU, which a mask without a
# pattern makes slower than two or three passes without branches.


def bits_of(mask: Tensor, like: Tensor) -> Tensor:
    """All bits of a number set where the mask is True, none where it is False."""
    return mask.to(_INTEGER[like.element_size()]).neg_()


def put(old: Tensor, new: Tensor, bits: Tensor | None) -> None:
    """``old ← new`` in place where the bits are set; elsewhere its bits stay. ``new`` is used up."""
    if bits is None:
        old.copy_(new)
    else:
        old, new = old.detach().view(bits.dtype), new.detach().view(bits.dtype)
        old.bitwise_xor_(new.bitwise_xor_(old).bitwise_and_(bits))
