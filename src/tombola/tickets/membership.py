"""Tickets that come, go and change their names; what the others answer keeps its bits.

A ticket *owns* the weights that its mask keeps. What only one ticket owned goes with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tombola._utils import io
from tombola._utils.errors import MaskError, UsageError
from tombola._utils.replica import copied
from tombola._utils.validation import check_name
from tombola.masks.bits import unpacked
from tombola.masks.maskset import MaskSet
from tombola.masks.reference import references
from tombola.tickets import fitted
from tombola.training.model import parameter_of

if TYPE_CHECKING:
    from tombola.data.dataset import Data
    from tombola.objectives import Objective
    from tombola.tickets.model import TicketModel

Tickets = Any  # a `TicketModel`, which derives from what is here


class Members(nn.Module):
    """What a `tombola.TicketModel` can do with its tickets as a whole."""

    def select(self: Tickets, names: Sequence[str]) -> TicketModel:
        """Some of the tickets, in this order, on the same backbone; without router and calibration.

        Raises:
            UnknownTicket: a name that is not there.
        """
        numbers = [self.index(name) for name in names]
        private = {name: self.private_state(name) for name in names}
        made = _like(self, self.masks.select(names), private, about_some(self.metadata, numbers, names))
        return made.train(self.training)

    def rename(self: Tickets, old: str, new: str) -> TicketModel:
        """The same tickets, one of them under another name, on the same backbone.

        Raises:
            UnknownTicket: no ticket has the old name.
            UsageError: one has the new name.
        """
        k = self.index(old)
        check_name(new, "ticket")
        if new in self.names:
            raise UsageError(f"there is a ticket {new!r} already: choose another name")
        names = [*self.names[:k], new, *self.names[k + 1 :]]
        masks = MaskSet.unpack(self.scope, names, self.masks.pack())
        private = {n: self.private_state(o) for n, o in zip(names, self.names, strict=True)}
        metadata = about_some(self.metadata, range(len(names)), self.names)
        for key in BY_NAME & metadata.keys():
            if isinstance(metadata[key], dict):
                metadata[key] = {new if name == old else name: v for name, v in metadata[key].items()}
        made = _like(self, masks, private, metadata).train(self.training)
        for part in fitted.PARTS:
            if (fit := getattr(self, part)) is not None:
                setattr(made, part, fitted.renamed(fit, dict(zip(self.names, names, strict=True))))
        return made

    def grow(self: Tickets, name: str, data: Data, objective: Objective, **options: Any) -> TicketModel:
        """Tickets with one more, found on new data alone; see `tombola.tickets.growth.grow`."""
        from tombola.tickets.growth import grow

        made: TicketModel = grow(self, name, data, objective, **options)
        return made

    def widen(self: Tickets, backbone: nn.Module, **options: Any) -> TicketModel:
        """The same tickets on a wider network, for others to come; see `tombola.tickets.widening.widened`."""
        from tombola.tickets.widening import widened

        made: TicketModel = widened(self, backbone, **options)
        return made

    @torch.no_grad()
    def forget(self: Tickets, name: str) -> TicketModel:
        """The other tickets, on a copy of the backbone in which what only this one owned is zero.

        Gone there are its mask, its private state, the weights that no other ticket keeps, and its share of
        router and calibration. The others' answers keep their bits. What its data may have left in weights
        that others keep as well is not undone: `shared_with` counts them; nor in an output layer, norms and
        biases that were trained together. This object stays as it is: drop it, and it is gone from memory.

        Raises:
            UnknownTicket: a name that is not there.
            UsageError: it is the last ticket.
        """
        k, names = self.index(name), [other for other in self.names if other != name]
        if not names:
            raise UsageError(f"{name!r} is the last ticket: delete the file instead")
        left = self.select(names)
        backbone, only_N = copied(self.backbone), self.mask_N(k) & ~left.owned_N
        for layer, mine in self.scope.unflatten(only_N).items():
            weight = parameter_of(backbone, layer)
            weight.copy_(torch.where(mine, 0, weight))
        _blank(backbone, left)
        private = {other: left.private_state(other) for other in names}
        made: TicketModel = type(self)(backbone, left.masks, private, left.metadata).train(self.training)
        if acting(made, names) != acting(self, names):
            raise MaskError(
                f"forgetting {name!r} would have changed another ticket: nothing was done; report this"
            )
        fitted.without(self, name, made)
        return made

    def shared_with(self: Tickets, name: str) -> int:
        """The weights of a ticket that others keep as well: what `forget` leaves of it."""
        k = self.index(name)
        others = [bits_M for j, bits_M in enumerate(self.bits_KM) if j != k]
        if not others:
            return 0
        return int(
            unpacked(self.bits_KM[k] & reduce(torch.bitwise_or, others), self.scope.size).count_nonzero()
        )

    @property
    def owned_N(self: Tickets) -> Tensor:
        """The weights that any ticket owns, boolean ``[N]``."""
        return unpacked(reduce(torch.bitwise_or, self.bits_KM), self.scope.size)

    @property
    def free(self: Tickets) -> int:
        """The weights that no ticket owns: what is left for `grow`."""
        return int(self.scope.size - self.owned_N.count_nonzero())


# Metadata that say something of each ticket, by its name.
BY_NAME = {"classes", "class_names", "grown", "merged"}


def about_some(metadata: Mapping[str, Any], numbers: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """The metadata of some of the tickets, given by their numbers and names."""
    chosen = dict(metadata)
    if "outputs" in chosen:
        chosen["outputs"] = [chosen["outputs"][k] for k in numbers]
    if "told" in chosen:  # one network for all subsets: its classes are those of the subsets, not of tickets
        return chosen
    for key in BY_NAME & chosen.keys():
        if isinstance(chosen[key], dict):
            chosen[key] = {name: value for name, value in chosen[key].items() if name in names}
    return chosen


def _like(
    tickets: Tickets, masks: MaskSet, private: Mapping[str, Mapping[str, Tensor]], metadata: dict[str, Any]
) -> TicketModel:
    made: TicketModel = type(tickets)(tickets.backbone, masks, private, metadata)
    return made


def joined(first: TicketModel, second: TicketModel, metadata: dict[str, Any]) -> TicketModel:
    """Tickets of two models of one network in one, without router; weights that both keep are equal.

    What any ticket has for itself, or the two share in different values, all have for themselves then.
    """
    backbone, (a, b) = copied(first.backbone), (held(model) for model in (first, second))
    with torch.no_grad():
        for name, theirs in first.scope.unflatten(second.owned_N).items():
            weight = parameter_of(backbone, name)
            weight.copy_(torch.where(theirs, b[name], weight))
    own = {n for t in (first, second) for n in (*t.private.names, *t.statistics.names)}
    rest = (n for n in a if n not in first.scope.names and not n.endswith("num_batches_tracked"))
    own |= {n for n in rest if not torch.equal(a[n], b[n])}
    private = {
        name: {**{n: held[n].detach().clone() for n in own}, **model.private_state(name)}
        for model, held in ((first, a), (second, b))
        for name in model.names
    }
    bits_KM = torch.cat([first.masks.pack(), second.masks.pack()])
    masks = MaskSet.unpack(first.scope, (*first.names, *second.names), bits_KM)
    made: TicketModel = type(first)(backbone, masks, private, metadata)
    with torch.no_grad():
        _blank(backbone, made)
    return made


def _blank(backbone: nn.Module, tickets: TicketModel) -> None:
    """Make neutral what no pass reads, as every ticket has its own: it would tell of who trained it.

    In a network with a reference it is pretrained, and where new tickets start from.
    """
    if references(backbone):
        return
    held = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    for name in (*tickets.private.names, *tickets.statistics.names):
        held[name].fill_(1.0 if name.endswith("running_var") else 0.0)


def held(tickets: TicketModel) -> dict[str, Tensor]:
    """All parameters and buffers of the network, by name."""
    return {**dict(tickets.backbone.named_parameters()), **dict(tickets.backbone.named_buffers())}


def merged(first: TicketModel, second: TicketModel) -> TicketModel:
    """The tickets of two models of one network, such as two files that grew apart from one.

    Tickets of one name must be the same ticket. Weights that tickets of both keep must be equal, bit for bit.

    Raises:
        MaskError: weights in scope differ, or a name means two tickets, or both moved the same weights.
    """
    if first.scope != second.scope:
        raise MaskError("the two have masks over other weights: they are of different networks")
    twice = [name for name in second.names if name in first.names]
    for name in twice:
        if acting(first, [name]) != acting(second, [name]):
            raise MaskError(f"both have a ticket {name!r}, and they differ: rename one of them")
    if len(twice) == len(second.names):
        return first
    fresh = second.select([name for name in second.names if name not in twice]) if twice else second
    mine_N, theirs_N = (model.state(model.names[0])[0].detach() for model in (first, fresh))
    both_N = first.owned_N & fresh.owned_N
    if apart := int((both_N & (mine_N != theirs_N)).count_nonzero()):
        raise MaskError(
            f"{apart:,} weights that tickets of both keep differ: the two do not come from the same weights, "
            "or both trained them (grow the tickets one after the other, from one file)"
        )
    both = joined(first, fresh, _about_both(first, fresh))
    for model in (first, second):
        fitted.carry(model, both, "was fitted on the tickets of one file")
    return both


def _about_both(first: TicketModel, second: TicketModel) -> dict[str, Any]:
    a, b = first.metadata, second.metadata
    if a.get("input", {}).get("prepare") != b.get("input", {}).get("prepare"):
        raise MaskError(
            "inputs of the two are prepared in different ways (tickets.prepare), and a file has one: find or "
            "grow them with the same prepare="
        )
    if any(a.get(key) != b.get(key) for key in ("objective", "answer", "output", "scale")):
        raise MaskError(
            "the two were found with different objectives: their outputs are read in different ways"
        )
    about = {key: value for key, value in a.items() if key != "command" or value == b.get(key)}
    if "outputs" in a:
        about["outputs"] = [*a["outputs"], *b.get("outputs", range(len(second.names)))]
    for key in BY_NAME & {*a, *b}:
        each = [
            known.get(key, {}) if isinstance(known.get(key, {}), dict) else dict.fromkeys(t.names, known[key])
            for t, known in ((first, a), (second, b))
        ]
        if a.get(key) != b.get(key) or key == "classes":
            about[key] = each[0] | each[1]
    if "classes" in about and {*about["classes"]} != {*first.names, *second.names}:
        raise MaskError(
            "one of the two knows the classes of its tickets, the other does not: find them alike"
        )
    return about


def acting(tickets: TicketModel, names: Sequence[str]) -> str:
    """A hash of all that some tickets answer by: their masks, weights, private and shared tensors.

    Equal hashes are equal answers, bit for bit; weights that none of these tickets keeps do not count.
    """
    numbers = [tickets.index(name) for name in names]
    weights_N, _, _ = tickets.state(tickets.names[0])
    masks = MaskSet.unpack(tickets.scope, names, tickets.bits_KM[numbers].cpu())
    kept_N = masks.union()
    sha = hashlib.sha256(io.digest({"weights": weights_N.detach().cpu()[kept_N]}).encode())
    sha.update(masks.digest().encode())
    rest = {n: t for n, t in held(tickets).items() if n not in tickets.scope.names}
    known: dict[int, str] = {}
    for name in names:
        for n, t in sorted((rest | tickets.private_state(name)).items()):
            hashed = known.get(id(t)) or io.digest({n: t})
            if n in rest and t is rest[n]:
                known[id(t)] = hashed
            sha.update(f"{name} {n} {hashed}".encode())
    return sha.hexdigest()


def merge_files(paths: Sequence[Path | str], backbone: nn.Module) -> TicketModel:
    """The tickets of several files of one network in one model (`merged`), to be saved."""
    from tombola.tickets.model import load

    if isinstance(paths, str | Path) or not paths:
        raise UsageError(f"merge_files takes a list of files: got {paths!r}")
    found = [load(path, backbone) for path in paths]
    both = found[0]
    for other in found[1:]:
        both = merged(both, other)
    return both
