"""Tickets in use: one backbone, K masks, and what each ticket keeps for itself.

The masks are data. A forward pass runs a replica of the backbone on ``m_k ⊙ θ`` and swaps nothing in it
(`tombola.tickets.passes`); there are no renamed parameters, hooks or replaced modules, so threads, copying,
pickling, ``state_dict`` and ``torch.compile`` work.
Masks alone make nothing faster: a ticket costs what the dense network costs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tombola._utils import batch, io, misfit
from tombola._utils.batch import Batch
from tombola._utils.device import device_of
from tombola._utils.errors import MaskError, TicketFileError, TombolaError, UsageError
from tombola._utils.replica import Replica
from tombola._utils.sharded import in_shards, writes
from tombola._utils.torch_state import uncompiled, under_compiler
from tombola.data.values import batch_of
from tombola.masks import low_rank, reference
from tombola.masks.apply import masked_weights
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.objectives.classification import allowed
from tombola.tickets import files, fitted, inputs, probe
from tombola.tickets.cache import WeightCache
from tombola.tickets.grouping import asked, grouped
from tombola.tickets.hugging_face import Introspected, Shared
from tombola.tickets.membership import Members
from tombola.tickets.passes import Passes
from tombola.tickets.tensors import Tensors
from tombola.training.model import check_network, check_private, check_scope, parameter_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tombola.tickets.prediction import Prediction
    from tombola.tickets.routing import Routed


_in_use: ContextVar[tuple[tuple[int, str], ...]] = ContextVar("in_use", default=())


class TicketModel(Tensors, Introspected, fitted.Holder, Members, Shared):
    """A backbone, its masks, and the private state of each ticket.

    Args:
        backbone: the dense network, holding the shared weights; it is used as it is, not copied.
        masks: one named mask per ticket, over weights of the backbone.
        private: per ticket, named parameters and buffers that replace the backbone's own: running
            statistics, norm affines, heads. All tickets have the same names.
        metadata: what was recorded about the tickets (method, hashes); small values that JSON can hold.
        facts: an older name of ``metadata``.

    ``router`` chooses the ticket where none is named (`tombola.routing`), ``calibration`` makes probabilities
    of scores (`tombola.calibration`), ``cache`` keeps masked weights (`tombola.WeightCache`).

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masks = MaskSet.dense(Layout(("0.weight",), ((3, 4),)), ["cat", "dog"])
    >>> tickets = TicketModel(net, masks)
    >>> tickets(torch.rand(5, 4), ticket="cat").shape
    torch.Size([5, 2])
    >>> tickets(torch.rand(2, 4), ticket=["dog", "cat"]).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        masks: MaskSet,
        private: Mapping[str, Mapping[str, Tensor]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if facts is not None:
            _renamed()
            metadata = {**facts, **(metadata or {})}
        check_scope(backbone, masks.scope)
        if len((metadata or {}).get("outputs", masks.names)) != len(masks.names):
            raise MaskError("the metadata are of other tickets than the masks: take tickets.select(names)")
        self.backbone = backbone
        self.scope, self.names = masks.scope, masks.names
        self.metadata = dict(metadata or {})
        self.cache: WeightCache | None = None
        self.passes = Passes()
        private = private or {name: {} for name in masks.names}
        first = check_private(backbone, self.scope, private, masks.names)
        parameters = dict(backbone.named_parameters())
        self.private = Layout.of({n: t for n, t in first.items() if n in parameters})
        self.statistics = Layout.of({n: t for n, t in first.items() if n not in parameters})
        device = device_of(backbone)
        self._bits_KM = masks.pack().to(device, copy=True)  # because load_state_dict writes into it
        rows = [private[name] for name in masks.names]
        self.private_KP = nn.Parameter(_stacked(self.private, rows, device), bool(self.private.size))
        self.register_buffer("statistics_KS", _stacked(self.statistics, rows, device))
        # What no pass reads has no gradient, for which `DistributedDataParallel` would wait.
        self._ddp_params_and_buffers_to_ignore = [f"backbone.{name}" for name in self.private.names]

    # -- use --------------------------------------------------------------------------------------

    @uncompiled(recursive=False)
    def forward(
        self,
        x: Batch = None,
        ticket: str | Sequence[str] | None = None,
        *,
        context: Any = None,
        **inputs: Any,
    ) -> Any:
        """Outputs of one ticket for a batch, or of one ticket per sample.

        Args:
            x: inputs ``[B, ...]``, or a tuple, dictionary or nest of such: the network is called as
                ``net(x)``, ``net(*x)`` or ``net(**x)``.
            ticket: a name, or B names: samples are grouped by ticket, run, and put back in order, each output
                along the axis that its samples have. Outputs without one are None if they are beside the
                part that the objective reads, and an error if not.
                With a single ticket in the model it may be left out; otherwise the router chooses.
            context: what the router chooses by, one or one per sample (`ContextRouter`).
            inputs: in place of x the dictionary, as trainers write it: ``tickets(ids=..., labels=...)``.

        Tickets found with `OneVsRest` are read at output k for ticket k, the only one that was trained.

        Raises:
            UnknownTicket: a name that is not there; the message lists those that are.
            TombolaError: x holds no tensors or those of a dtype or shape that the network does not take,
                ticket no names, neither a ticket nor a router is there, or several tickets and an output that
                is one value for all samples.
        """
        if x is not None and inputs:
            raise TombolaError(f"x and {', '.join(inputs)}: pass all inputs by name, or one dictionary")
        x = inputs or self._checked(x)  # what is named may be numbers, as long as one ticket answers
        if ticket is None and context is None:
            ticket = self.used
        if ticket is not None and context is not None:
            raise TombolaError("ticket and context both say who answers: pass one of them")
        routed = ticket is None and (len(self.names) > 1 or context is not None)
        with self._taking(x):
            if routed:
                return self.follow(x, self.route(x, context))
            names = asked(ticket, self.names)
            if isinstance(names, str):
                return self._answer(names, x)
            return self._grouped(self._checked(x) if inputs else x, names)

    def _checked(self, x: Any) -> Batch:
        x = batch.plain(x)
        if not isinstance(x, Tensor):
            batch.check(x)
        elif list(x.shape) == self.metadata.get("shape"):
            raise TombolaError(f"x is one sample, {list(x.shape)}, and no batch: pass x[None]")
        return x

    def _taking(self, x: Batch) -> AbstractContextManager[None]:
        return misfit.named(x, self.backbone, inputs.as_taken(self.metadata))

    def prepare(self, x: Any, *, tokenizer: Any = None) -> Batch:
        """What the network takes, from samples as the data of training hold them, arrays or tensors.

        The steps of ``Data.prepare`` are in the ticket file (`tombola.prepare`); without any, samples stay as
        they are. All else (`forward`, `predict`, `route`, exported networks) takes what this gives.

        Args:
            x: samples; strings where a tokenizer made tokens of text in training.
            tokenizer: that tokenizer, or where it lies by now; by default where the file says.

        Raises:
            TombolaError: a function of the user's own prepared inputs in training, which no file holds; or
                another tokenizer than that of training.
        """
        from tombola.data.text import strings

        known, texts = inputs.known(self.metadata), strings(x)
        x = batch_of(batch.plain(x)) if texts is None else known.tokens(texts, tokenizer)
        return known.prepared(x)

    def predict(
        self, x: Batch, ticket: str | Sequence[str] | None = None, *, context: Any = None
    ) -> Prediction:
        """Answers with probability, confidence and a reason, calibrated if a calibration is there.

        Arguments as in `forward`, in evaluation mode and without gradients. So x is what the network takes,
        already prepared, also where the file holds the steps of ``Data.prepare``: then it is
        ``tickets.predict(tickets.prepare(x))``. `tombola predict` and `tombola serve` prepare by themselves.

        Raises:
            TombolaError: as `forward`, and where x holds NaN or infinite values.
        """
        from tombola.tickets.prediction import predict

        x = self._checked(x)
        inputs.check_finite(x, self.metadata)
        return predict(self, x, ticket, context)

    def follow(self, x: Batch, routed: Routed) -> Any:
        """Outputs where a routing says who answers; of two tickets, where the router mixes them."""
        from tombola.tickets.routing import mixed

        shares = self.shares(routed)
        outputs = [self._grouped(x, names) for names, _ in shares]
        classes = [allowed(self.metadata, names, x) for names, _ in shares]
        return mixed(outputs, [share_B for _, share_B in shares], classes)

    def shares(self, routed: Routed) -> list[tuple[list[str], Tensor]]:
        """The tickets that answer, B names and their shares ``[B]`` in the answer, likeliest first."""
        return routed.likeliest(self.router.options["mix"] if self.router is not None else 1)

    @uncompiled()
    @torch.no_grad()
    def route(self, x: Batch, context: Any = None) -> Routed:
        """The ticket that is to answer each sample, and how sure that is; an error without a router.

        Of inputs that are not finite it is not sure at all.
        """
        if self.router is None:
            raise UsageError(
                f"which ticket? Pass ticket=NAME (--ticket NAME; one of {', '.join(self.names)}) or one name "
                "per sample; these tickets have no router that could choose "
                "(tickets.router = tb.routing.PrototypeRouter().fit(tickets, data, partition); or "
                "tombola route FILE --data DATA --ticket-column NAME)"
            )
        x = self._checked(x)
        with self._taking(x):
            return self.router.route(self, x, context)

    # -- training in a loop of one's own ------------------------------------------------------------

    @contextmanager
    def use(self, ticket: str) -> Iterator[None]:
        """Inside, this ticket answers where none is named, and `tombola.masked` optimisers step inside it.

        It is so in this thread alone.

        >>> from tombola import masked
        >>> net = nn.Linear(2, 1, bias=False)
        >>> masks = MaskSet(Layout(("weight",), ((1, 2),)), {"cat": torch.tensor([True, False])})
        >>> tickets = TicketModel(net, masks)
        >>> optimizer = masked(torch.optim.SGD(tickets.parameters(), lr=1.0), tickets)
        >>> _ = nn.init.zeros_(net.weight)
        >>> with tickets.use("cat"):
        ...     tickets(torch.ones(1, 2)).sum().backward()
        ...     optimizer.step()
        >>> net.weight.tolist()
        [[-1.0, 0.0]]
        """
        self.index(ticket)
        token = _in_use.set((*_in_use.get(), (id(self), ticket)))
        try:
            yield
        finally:
            _in_use.reset(token)

    @property
    def used(self) -> str | None:
        """The ticket that this thread has in use."""
        return next((name for of, name in reversed(_in_use.get()) if of == id(self)), None)

    def masks_of(self, parameters: Sequence[Tensor]) -> list[Tensor | None] | None:
        """What the ticket in use owns of each parameter, None for all of it; None where none is in use."""
        if self.used is None:
            return None
        k = self.index(self.used)
        own = {id(self.private_KP): _row(self.private_KP, k)}
        for name, mask in self.scope.unflatten(self.mask_N(k)).items():
            own[id(parameter_of(self.backbone, name))] = mask
        return [own.get(id(p)) for p in parameters]

    @uncompiled(recursive=False)
    def _answer(self, ticket: str, x: Batch) -> Any:
        if not under_compiler():
            return self.passes.run(self, self.index(ticket), x)
        if torch.is_grad_enabled():
            return self._trained(self.state(ticket), x)
        return self._run(self.weights(ticket), x)

    def _run(self, named: dict[str, Tensor], x: Batch) -> Any:
        # torch.compile sees this and the next, where tickets are tensors, never names: one graph serves all.
        if torch.compiler.is_compiling():
            if isinstance(x, dict):
                return functional_call(self.backbone, named, (), x)
            return functional_call(self.backbone, named, x if isinstance(x, tuple) else (x,))
        return batch.call(self.replica(named).module, x)

    @uncompiled()
    def replica(self, named: Mapping[str, Tensor]) -> Replica:
        """A replica of the backbone with these tensors, in the mode of this thread."""
        return self.passes.replica(self.backbone, named)

    def _trained(self, state: tuple[Tensor, Tensor, dict[str, Tensor]], x: Batch) -> Any:
        weights_N, mask_N, own = state
        return self._run(masked_weights(self.scope, weights_N, mask_N) | own, x)

    @uncompiled(recursive=False)
    def _grouped(self, x: Batch, names: Sequence[str]) -> Any:
        return grouped(x, names, self.names, self._answer, self._axes)

    @uncompiled()
    def _axes(self, x: Batch) -> list[int | None]:
        return self.passes.axes(self, x)

    @property
    def facts(self) -> dict[str, Any]:
        """An older name of ``metadata``."""
        _renamed()
        return self.metadata

    def __len__(self) -> int:
        """The number of tickets."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """The names of the tickets."""
        return iter(self.names)

    def __contains__(self, ticket: object) -> bool:
        return ticket in self.names

    def __getitem__(self, ticket: str) -> Tensor:
        """A copy of the mask of a ticket, boolean ``[N]``."""
        return self.mask_N(self.index(ticket))

    @torch.no_grad()
    def __setitem__(self, ticket: str, mask_N: Tensor) -> None:
        """Give a ticket another mask, boolean ``[N]``; what was fitted on the tickets no longer fits them.

        A pass of the same ticket in another thread may see some of the new mask and some of the old one.
        """
        k, mask = self.index(ticket), MaskSet(self.scope, {ticket: mask_N})
        self.bits_KM[k] = mask.pack()[0].to(self.bits_KM.device)

    def extra_repr(self) -> str:
        """One line on tickets, density and private state."""
        private = self.private.size + self.statistics.size
        return f"{self.masks!r}, tickets={list(self.names)}, private numbers per ticket={private}"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return f"<p>TicketModel of {type(self.backbone).__name__}</p>{self.masks._repr_html_()}"

    def plot(self) -> Figure:
        """Density by layer and similarity of all pairs, as a figure (`tombola.MaskSet.plot`)."""
        return self.masks.plot()

    def save(self, path: Path | str, coding: str = "auto", *, like: Batch | None = None) -> int:
        """Write the ticket file, router and calibration in it; returns its size in bytes.

        Of a model that is sharded (``fully_shard``) all processes call this, and one of them writes.

        Args:
            path: the file; it is replaced at once or not at all.
            coding: how masks are written (`tombola.masks.codec.encode`): ``auto`` is the smallest that the
                installed packages allow, ``plain`` what every version reads.
            like: inputs of the network, by which the file will know what the network computes
                (`tombola.tickets.probe`). Shape, dtype and range are stored, not their numbers. Tickets that
                `tombola.rtl` or `tombola.find` made know them.

        Raises:
            TombolaError: router or calibration were fitted on other tickets, or on these before they changed.
        """
        if like is not None:
            self.metadata["probe"] = probe.of(self, self._checked(like))
        contents = self.contents(coding)
        return io.write(path, *contents) if writes(self) else io.size(*contents)

    def contents(self, coding: str = "auto") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of the ticket file; of a model that is sharded all processes ask together."""
        if in_shards(self):
            return self.gathered().contents(coding)
        private = {name: self.private_state(name) for name in self.names}
        parts, outputs = fitted.states(self), probe.recorded(self)
        known = {"pretrained": made} if (made := getattr(self, "pretrained_from", None)) else {}
        known |= self.metadata | ({"reference": of} if (of := reference.digest(self.backbone)) else {})
        known |= {"adapters": rank} if (rank := low_rank.rank_of(self.backbone)) else {}
        return files.pack(self.backbone, self.masks, private, known, parts, coding, outputs)


def _row(private_KP: Tensor, k: int) -> Tensor:
    mask_KP = torch.zeros(private_KP.shape, dtype=torch.bool, device=private_KP.device)
    mask_KP[k] = True
    return mask_KP


def _renamed() -> None:
    warnings.warn("facts of a TicketModel are now its metadata", FutureWarning, stacklevel=3)


def _stacked(layout: Layout, rows: Sequence[Mapping[str, Tensor]], device: torch.device) -> Tensor:
    floats = next((t.dtype for row in rows for n, t in row.items() if t.is_floating_point()), None)
    if floats is not None:  # batches that a norm has counted are one vector with its means
        rows = [{n: t if t.is_floating_point() else t.to(floats) for n, t in row.items()} for row in rows]
    return torch.stack([layout.flatten(row) for row in rows]).detach().to(device)


def load(path: Path | str, backbone: nn.Module) -> TicketModel:
    """Tickets from a file, on a copy of ``backbone``, which must have the same tensors and compute the same.

    What it computes is looked at with one pass of two samples, where the file has a probe
    (`tombola.tickets.probe`). Weights that no ticket keeps were not stored and are zero.

    Raises:
        TicketFileError: the file is missing, truncated, altered, or belongs to another network.
        TombolaError: the backbone is no network.
    """
    check_network(backbone)
    backbone, masks, private, metadata, parts, outputs = files.unpack(path, backbone)
    tickets = TicketModel(backbone, masks, private, metadata).eval()
    if outputs and (words := probe.refused(tickets, outputs)):
        raise TicketFileError(f"{path} belongs to another network: {words}")
    x = probe.inputs(metadata["probe"]) if outputs else None
    fitted.restore(tickets, parts, batch.mapped(lambda t: t.to(device_of(backbone)), x))
    return tickets
