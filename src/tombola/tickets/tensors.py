"""What a ticket is made of: the shared weights, its mask, and what it keeps for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from tombola._utils.errors import MaskError, UnknownTicket
from tombola._utils.replica import copied
from tombola._utils.sharded import check_whole, in_shards, whole, whole_module
from tombola._utils.torch_state import ordinary, uncompiled
from tombola.masks import reference
from tombola.masks.apply import masked_parts
from tombola.masks.bits import packed, unpacked
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.tickets import fitted
from tombola.tickets.cache import WeightCache
from tombola.tickets.passes import SHARDED
from tombola.training.model import parameter_of

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel


class Tensors(nn.Module):
    """The tensors of a `tombola.TicketModel`, ticket by ticket.

    Masks are moved, saved and loaded like a buffer, and are none: averages of buffers take bits for numbers.
    """

    backbone: nn.Module
    scope: Layout
    names: tuple[str, ...]
    metadata: dict[str, Any]
    cache: WeightCache | None
    private: Layout
    statistics: Layout
    _bits_KM: Tensor
    private_KP: nn.Parameter
    statistics_KS: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        moved = fn(self._bits_KM)
        self._bits_KM = moved if moved.dtype == torch.uint8 else self._bits_KM.to(moved.device)
        return super()._apply(fn, recurse)

    @property
    def bits_KM(self) -> Tensor:
        """The masks, a bit for each weight (`tombola.masks.bits`), where the parameters are.

        ``fully_shard`` and the replicas of ``DataParallel`` move parameters and buffers alone.
        """
        if self._bits_KM.device != self.private_KP.device:
            self._bits_KM = self._bits_KM.to(self.private_KP.device)
        return self._bits_KM

    @bits_KM.setter
    def bits_KM(self, bits_KM: Tensor) -> None:  # by which `functional_call` takes state dictionaries
        self._bits_KM = bits_KM

    def __setstate__(self, state: dict[str, Any]) -> None:
        former_KN = state.get("_buffers", {}).pop("bits_KN", None)  # pickled when masks took a byte a weight
        if former_KN is not None:
            state["_bits_KM"] = packed(former_KN.bool().cpu())
        super().__setstate__(state)

    def _save_to_state_dict(self, state: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(state, prefix, keep_vars)
        state[f"{prefix}bits_KM"] = self.bits_KM

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], strict: bool, *said: list[str]
    ) -> None:
        bits_KM = state.pop(f"{prefix}bits_KM", None)
        if (former_KN := state.pop(f"{prefix}bits_KN", None)) is not None:  # a byte for each weight
            bits_KM = packed(former_KN.bool().cpu())
        super()._load_from_state_dict(state, prefix, metadata, strict, *said)
        missing, _, errors = said
        if bits_KM is None:
            missing.append(f"{prefix}bits_KM")
        else:
            try:
                MaskSet.unpack(self.scope, self.names, bits_KM)
                self.bits_KM.copy_(bits_KM)
            except MaskError as error:
                errors.append(f"{prefix}bits_KM: {error}")

    def index(self, ticket: str) -> int:
        """Row of a ticket; raises `UnknownTicket`."""
        if ticket not in self.names:
            raise UnknownTicket(ticket, self.names)
        return self.names.index(ticket)

    @property
    def masks_KN(self) -> Tensor:
        """A copy of all masks, boolean ``[K, N]``: a byte where the model keeps a bit.

        ``tickets[NAME] = mask`` writes one.
        """
        return unpacked(self.bits_KM, self.scope.size)

    def mask_N(self, k: int) -> Tensor:
        """The mask of ticket k, boolean ``[N]``."""
        return unpacked(self.bits_KM[k], self.scope.size)

    @property
    def masks(self) -> MaskSet:
        """The masks of all tickets, on the CPU."""
        return MaskSet.unpack(self.scope, self.names, self.bits_KM.to("cpu", copy=True))

    def private_state(self, ticket: str) -> dict[str, Tensor]:
        """Tensors of this ticket alone, by the names of the backbone."""
        dtypes = {name: b.dtype for name, b in self.backbone.named_buffers()}  # counts are kept as floats
        own = self._own(self.index(ticket))
        return {name: tensor.detach().to(dtypes.get(name, tensor.dtype)) for name, tensor in own.items()}

    @torch.no_grad()
    def bake(self, ticket: str) -> nn.Module:
        """A plain copy of the backbone with zeros outside the mask and the private state in place.

        Of a model that is sharded all processes ask for it together.

        Where the network has a reference (`tombola.masks.reference`), its weights are outside the mask.
        """
        if in_shards(self):
            return self.gathered().bake(ticket)
        module = copied(self.backbone)
        weights_N, mask_N, own = self.state(ticket)
        module.load_state_dict(self.scope.unflatten(weights_N * mask_N) | own, strict=False)
        return reference.plain(module)

    @uncompiled()
    @torch.no_grad()
    def weights(self, ticket: str) -> dict[str, Tensor]:
        """Weights of the network by name: ``m_k ⊙ θ`` and private tensors, to be read (`WeightCache`)."""
        k, sources = self.index(ticket), self.sources
        if self.cache is None or not ordinary(sources):
            return self.made(k)
        return self.cache.get(ticket, sources, lambda: self.made(k)).named

    @property
    def sources(self) -> list[Tensor]:
        """All tensors that tickets are made of: the weights in scope, then masks and private tensors."""
        parts = [parameter_of(self.backbone, name) for name in self.scope.names]
        return [*parts, self.bits_KM, self.private_KP, self.statistics_KS]

    def made(self, k: int) -> dict[str, Tensor]:
        """A new product ``m_k ⊙ θ``, by name, and views of the private tensors of ticket k."""
        *parts, _, _, _ = self.sources
        check_whole(dict(zip(self.scope.names, parts, strict=True)), SHARDED)
        product_N = torch.empty(self.scope.size, dtype=parts[0].dtype, device=parts[0].device)
        masked_parts(self.scope, parts, self.bits_KM[k], product_N)
        return self.scope.unflatten(product_N) | self._own(k)

    @uncompiled()
    def state(self, ticket: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """A ticket as tensors: shared weights ``[N]``, its mask ``[N]``, its private tensors by name."""
        k, weights = self.index(ticket), {n: parameter_of(self.backbone, n) for n in self.scope.names}
        check_whole(weights, SHARDED)
        return self.scope.flatten(weights), self.mask_N(k), self._own(k)

    def _own(self, k: int) -> dict[str, Tensor]:
        return self.private.unflatten(self.private_KP[k]) | self.statistics.unflatten(self.statistics_KS[k])

    def gathered(self) -> TicketModel:
        """Tickets with whole weights, where these are sharded; all processes call this together."""
        from tombola.tickets.model import TicketModel

        if in_shards(self):
            self.reshard()  # type: ignore[operator]  # a pass without gradients leaves whole ones
        network = whole_module(self.backbone)
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        own = {n: tensors[n] for n in (*self.private.names, *self.statistics.names)}
        made = TicketModel(network, self.masks, dict.fromkeys(self.names, own), self.metadata)
        made.private_KP.data.copy_(whole(self.private_KP))
        made.statistics_KS.copy_(self.statistics_KS)
        for part in fitted.PARTS:
            setattr(made, part, getattr(self, part))
        return made.train(self.training)
