"""A pass of one ticket: a replica of the backbone that holds ``m_k ⊙ θ`` and what ticket k keeps for itself.

Nothing is swapped in the backbone, so any number of threads may ask any tickets at once, and a pass that is
computed again (activation checkpointing) sees the weights that it saw. Without gradients, replicas and the
memory of their weights are used again: a switch of tickets is one product written into that memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure

from tombola._utils.batch import Batch, call, leaves, opened, part_of, take
from tombola._utils.errors import TombolaError
from tombola._utils.replica import Replica, Tree
from tombola._utils.sharded import check_whole
from tombola._utils.torch_state import ordinary, transformed
from tombola.masks.apply import masked_parts, masked_weights
from tombola.optim import MaskedOptimizer

if TYPE_CHECKING:
    from tombola.tickets.cache import WeightCache
    from tombola.tickets.model import TicketModel

SHARDED = "shard a TicketModel as one and not its parts; for all but a pass take `tickets.gathered()`"
IDLE = 4  # workspaces that are kept; while more threads are at work there are more
_mode: ContextVar[bool | None] = ContextVar("mode", default=None)


@contextmanager
def evaluating() -> Iterator[None]:
    """Inside, passes of this thread are in evaluation mode; the mode of the backbone stays what it is."""
    token = _mode.set(False)
    try:
        yield
    finally:
        _mode.reset(token)


_trained = WeakSet["TicketModel"]()  # with gradients
_known = WeakSet[torch.optim.Optimizer]()


def _notice(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Warn of the first step of an optimiser that would move weights outside of the masks."""
    if isinstance(optimizer, MaskedOptimizer) or hasattr(optimizer, "in_masks") or optimizer in _known:
        return
    ours = {id(p) for tickets in _trained for p in tickets.sources[:-3]}
    if any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
        _known.add(optimizer)
        warnings.warn(
            f"{type(optimizer).__name__} steps the weights of a TicketModel, and its moments and weight "
            "decay move those outside of the masks too: use tombola.masked(optimizer, tickets)",
            stacklevel=3,
        )


register_optimizer_step_pre_hook(_notice)


class Passes:
    """Passes through one backbone, and what they leave for the next; copies and pickles are empty.

    >>> net = nn.Linear(2, 1)
    >>> Passes().replica(net, {"weight": torch.zeros(1, 2), "bias": torch.ones(1)}).module(torch.rand(1, 2))
    tensor([[1.]])
    """

    def __init__(self) -> None:
        self._tree: Tree | None = None
        self._idle: list[Workspace] = []
        self._axes: dict[Any, list[int | None]] = {}  # by the structure of inputs

    def __reduce__(self) -> tuple[type[Passes], tuple[()]]:
        return Passes, ()

    def tree(self, backbone: nn.Module) -> Tree:
        """The backbone as it is now."""
        tree = self._tree
        if tree is None or tree.module is not backbone or not tree.current:
            tree = Tree(backbone)
            check_whole(tree.tensors, SHARDED)
            self._tree = tree
        return tree

    def replica(self, backbone: nn.Module, named: Mapping[str, Tensor]) -> Replica:
        """A replica of the backbone with these tensors, in the mode of this thread."""
        return self.tree(backbone).replica(named, _mode.get())

    @torch.no_grad()
    def axes(self, tickets: TicketModel, x: Batch) -> list[int | None]:
        """The axis of the samples in each output, None where it has none; found with two small batches, once.

        Raises:
            TombolaError: an output has no such axis or several, and is not just beside what is read.
        """
        spec = tree_structure(x), *(t.ndim for t in tree_leaves(x) if isinstance(t, Tensor))
        if spec not in self._axes:
            with evaluating(), torch.random.fork_rng():
                outputs = [opened(self.run(tickets, 0, take(x, slice(n)))) for n in (1, 2)]
            part = tickets.metadata.get("output")
            read = None if part is None else part_of(outputs[0], part)
            self._axes[spec] = [
                _axis(path, one, two, needed=read is None or one is read)
                for (path, one), (_, two) in zip(*map(leaves, outputs), strict=True)
            ]
        return self._axes[spec]

    def run(self, tickets: TicketModel, k: int, x: Any) -> Any:
        """Outputs of ticket k."""
        if torch.is_grad_enabled() or not ordinary([tickets.bits_KM]):
            return self._once(tickets, k, x)
        if (cache := tickets.cache) is not None:  # once: another thread may set another one
            return self._cached(tickets, k, x, cache)
        workspace = self.ready(tickets, k)
        outputs = call(workspace.replica.module, x)
        self.done(tickets, k, workspace)
        return tree_map_only(Tensor, workspace.apart, outputs)

    def ready(self, tickets: TicketModel, k: int) -> Workspace:
        """A workspace that holds ticket k, of this thread alone."""
        tree, mode = self.tree(tickets.backbone), _mode.get()
        parts = [tree.tensors[name] for name in tickets.scope.names]
        workspace = _taken(self._idle)
        if workspace is None or not workspace.fits(tickets, tree, mode, parts[0]):
            workspace = Workspace(tickets, tree, mode, parts[0])
        workspace.load(tickets, k, parts)
        return workspace

    def done(self, tickets: TicketModel, k: int, workspace: Workspace) -> None:
        """Take over what a pass changed; others may have the workspace."""
        workspace.store(tickets, k)
        used_up = self._ended(tickets, k, workspace.replica)
        # On an accelerator the pass may not have been computed yet, and the next may be on another stream.
        if not used_up and workspace.weights_N.is_cpu and len(self._idle) < IDLE:
            self._idle.append(workspace)

    def _once(self, tickets: TicketModel, k: int, x: Any) -> Any:
        if torch.is_grad_enabled():
            _trained.add(tickets)
        weights_N, mask_N, own = tickets.state(tickets.names[k])
        named = masked_weights(tickets.scope, weights_N, mask_N) | own
        replica = self.replica(tickets.backbone, named)
        outputs = call(replica.module, x)
        if not transformed():
            self._ended(tickets, k, replica)
        return outputs

    def _cached(self, tickets: TicketModel, k: int, x: Any, cache: WeightCache) -> Any:
        tree, mode, ticket = self.tree(tickets.backbone), _mode.get(), tickets.names[k]
        sources = [tree.tensors[name] for name in tickets.scope.names]
        sources += [tickets.bits_KM, tickets.private_KP, tickets.statistics_KS]
        kept = cache.get(ticket, sources, lambda: tickets.made(k))
        replica = _taken(kept.idle)  # one thread at a time has it
        if replica is None or replica.tree is not tree or replica.training != mode:
            replica = tree.replica(kept.named, mode)
        outputs = call(replica.module, x)
        if not self._ended(tickets, k, replica) and len(kept.idle) < IDLE:
            kept.idle.append(replica)
        return outputs

    def _ended(self, tickets: TicketModel, k: int, replica: Replica) -> bool:
        """Take over what a pass assigned; whether it was a buffer, so that the replica is used up."""
        replica.take_back(detach=not torch.is_grad_enabled())
        buffers = replica.buffers()
        if buffers:
            own = tickets.statistics.unflatten(tickets.statistics_KS[k])
            for name, value in buffers.items():
                if name in own:
                    own[name].data.copy_(value)
                else:
                    owner, _, last = name.rpartition(".")
                    tickets.backbone.get_submodule(owner)._buffers[last] = value
        return bool(buffers)


def _axis(name: str, one: Any, two: Any, needed: bool) -> int | None:
    """The axis along which outputs for one and for two samples differ; None if there is none."""
    if isinstance(one, bool | str | None):
        return None
    if isinstance(one, Tensor):
        sizes = list(zip(one.shape, two.shape, strict=False))
        changed = [i for i, (a, b) in enumerate(sizes) if a != b]
        if one.ndim == two.ndim and len(changed) == 1 and sizes[changed[0]] == (1, 2):
            return changed[0]
        what = f"has shape {tuple(one.shape)} for one sample and {tuple(two.shape)} for two"
    else:
        what = f"is a {type(one).__name__}"
    if needed:
        raise TombolaError(
            f"output{name} {what}, so that answers of several tickets cannot be put together: ask one ticket "
            "at a time"
        )
    return None


def _taken(idle: list[Any]) -> Any:
    try:
        return idle.pop()  # in one step: another thread may take the last one
    except IndexError:
        return None


class Workspace:
    """Memory for the weights and private tensors of one ticket at a time, and a replica that reads it."""

    def __init__(self, tickets: TicketModel, tree: Tree, mode: bool | None, like: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.weights_N = torch.empty(tickets.scope.size, dtype=like.dtype, device=like.device)
            self.private_P = torch.empty_like(tickets.private_KP[0])
            self.statistics_S = torch.empty_like(tickets.statistics_KS[0])
            named = tickets.scope.unflatten(self.weights_N)
            named |= tickets.private.unflatten(self.private_P)
            named |= tickets.statistics.unflatten(self.statistics_S)
            self.replica = tree.replica(named, mode)
        self._memory = {t.untyped_storage().data_ptr() for t in self._tensors if t.numel()}
        self._versions: list[int] = []

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weights_N, self.private_P, self.statistics_S

    def fits(self, tickets: TicketModel, tree: Tree, mode: bool | None, like: Tensor) -> bool:
        """Whether a new one would be made alike."""
        pairs = zip(self._tensors, (like, tickets.private_KP, tickets.statistics_KS), strict=True)
        alike = all(mine.dtype == own.dtype and mine.device == own.device for mine, own in pairs)
        return alike and self.replica.tree is tree and self.replica.training == mode

    @torch.no_grad()
    def load(self, tickets: TicketModel, k: int, parts: Sequence[Tensor]) -> None:
        """Write ticket k into the memory; ``parts`` are the shared weights in scope."""
        masked_parts(tickets.scope, parts, tickets.bits_KM[k], self.weights_N)
        self.private_P.copy_(tickets.private_KP[k])
        self.statistics_S.copy_(tickets.statistics_KS[k])
        self._versions = [t._version for t in self._tensors]

    @torch.no_grad()
    def store(self, tickets: TicketModel, k: int) -> None:
        """Write what the pass changed of the private tensors back to the ticket."""
        _, private, statistics = (t._version for t in self._tensors)
        if private != self._versions[1]:
            tickets.private_KP[k].copy_(self.private_P)
        if statistics != self._versions[2]:
            tickets.statistics_KS[k].copy_(self.statistics_S)

    def apart(self, output: Tensor) -> Tensor:
        """An output in memory of its own: this one is another ticket's in the next pass."""
        return output.clone() if output.untyped_storage().data_ptr() in self._memory else output
