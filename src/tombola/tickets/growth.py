"""A ticket for new data on weights that others own; what is theirs keeps its bits.

``free``    the new ticket reads and trains weights that no ticket owns, and no others.
``reuse``   it may read any weight that its mask keeps, and trains those that no ticket owns (WSN, Kang et
            al., ICML 2022).
``all``     it reads all weights that others own, and trains some of its own (PackNet, Mallya & Lazebnik,
            arXiv 1711.05769).
``frozen``  it reads weights as they are; its mask is all that is found (Piggyback, Mallya et al., arXiv
            1801.06519; SupSup, Wortsman et al., arXiv 2006.14769).

Under each of them the output layer, norms and biases are the ticket's own. A ticket *owns* the weights that
its mask keeps. Moments are masked as weights are, so Adam does not move what is frozen.

Shape letters: K tickets, N weights in scope.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tombola._utils.device import device_of
from tombola._utils.errors import DataError, TombolaError, UsageError, unknown, warn
from tombola._utils.replica import copied
from tombola._utils.rng import drawn_from
from tombola._utils.validation import check_name
from tombola.data import prepare
from tombola.data.dataset import Data
from tombola.masks.low_rank import rank_of
from tombola.masks.maskset import MaskSet
from tombola.masks.reference import plain, references
from tombola.objectives import Objective
from tombola.pruning import schedules, scores
from tombola.settings import Settings, settings_of
from tombola.tickets import fitted, inputs, membership
from tombola.tickets.finish import finish
from tombola.tickets.model import TicketModel
from tombola.tickets.passes import evaluating
from tombola.tickets.quality import whole
from tombola.training.callbacks import rules
from tombola.training.checks import check_fit, check_kinds
from tombola.training.head import find_head
from tombola.training.joint import train_jointly
from tombola.training.model import FunctionalModel, one_device, parameter_of
from tombola.training.pruning_context import Pruner
from tombola.training.rewind import StartWeights
from tombola.training.search import find_tickets
from tombola.training.trainer import Problem

Policy = Literal["free", "reuse", "all", "frozen"]
_THERE = "the scope is that of the tickets that are there"
_ALONE = "the ticket is trained alone, here and now"
NOT_HERE = {
    **dict.fromkeys(("include", "exclude", "head", "reference", "adapters"), _THERE),
    **dict.fromkeys(("rewind", "rewind_task", "form", "shares", "out", "parallel", "progress"), _ALONE),
    "private": "output layer, norms and biases are the ticket's own in any case",
}
# By magnitude the largest weights would be kept, and those are the others'; learned masks read the new data.
SEARCH = {"callback": "learned:0.1", "score": "magnitude", "schedule": "one_shot", "nested": False}


def grow(
    tickets: TicketModel,
    name: str,
    data: Data,
    objective: Objective,
    *,
    policy: Policy = "reuse",
    sparsity: float | None = None,
    widen: nn.Module | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    **changes: Any,
) -> TicketModel:
    """Tickets with one more, found on new data alone; the answers of the others keep their bits.

    Args:
        tickets: those that are there; they stay as they are.
        name: of the new ticket.
        data: its data. Where no ``prepare`` is given, inputs are prepared as those of the others were.
        objective: of the kind that the others were found with; not `OneVsRest`, which needs their data.
        policy: ``free``, ``reuse``, ``all`` or ``frozen``: which weights it may read, and which it may move.
        sparsity: share of all weights that it does not keep, under ``all`` besides those of others; by
            default it keeps as many as the first ticket.
        widen: a wider network of the same layers to go on with (`tombola.tickets.widening`).
        settings: everything else; by default those of the others, but for the search: the mask is learned
            (`tombola.training.callbacks.learned`) in as many steps. ``changes`` are single fields.
        seed: of new weights and of the order of the data, together with the name: the same seed and name give
            the same ticket, and two tickets of one file share no draws though they have one seed.

    Raises:
        UsageError: the name is taken, an argument of the wrong kind, or an objective that does not go along.
        TombolaError: fewer weights are left than the ticket is to keep; the message says how many.

    >>> import torch, tombola as tb
    >>> x, y = torch.rand(200, 8), torch.arange(200) % 2
    >>> data = tb.Data.of(x, y, {"site": torch.arange(200) // 2 % 2})
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> by_site = tb.partition.by_column(data, "site", ["north", "south"])
    >>> task = tb.objectives.Classification()
    >>> two = tb.rtl(net, task, data, by_site, sparsity=0.75, T=2, steps=2)
    >>> three = two.grow("west", tb.Data.of(x, 1 - y), task, policy="free")
    >>> three.names, torch.equal(three(x, ticket="north"), two(x, ticket="north"))
    (('north', 'south', 'west'), True)
    """
    _check(tickets, name, objective, policy, changes)
    one_device(tickets.backbone)
    if sparsity is None and settings is not None:
        sparsity = max(settings.sparsity)
    if widen is not None:
        tickets = tickets.widen(widen)
    settings = _settings(tickets, settings, sparsity, policy, changes)
    partition = whole(data, name) if isinstance(data, Data) else None
    check_kinds(tickets.backbone, objective, data, partition, seed)
    assert partition is not None
    data, objective = alike(tickets, data, objective)
    check_fit(copied(tickets.backbone).eval(), data, partition, objective.read)
    width = _width(tickets, objective, data) if objective.answer == "class" else 0
    if width:
        _check_classes(name, data, width)
    room = Room.of(tickets, policy)
    keep = room.asked(tickets, sparsity)
    f = _function(tickets, data, objective, settings, name, seed)
    problem = Problem(f, data, partition, objective.of(data, partition), settings.search, seed)
    problem.frozen_N = room.frozen_N
    one = _found(problem, room, keep, settings)
    grown = membership.joined(tickets, one, _about(tickets, name, policy, data, width))
    if membership.acting(grown, tickets.names) != membership.acting(tickets, tickets.names):
        raise TombolaError(
            "a ticket that was there before would have changed: nothing was grown; report this"
        )
    fitted.extend(tickets, grown, data)
    return grown.train(tickets.training)


@dataclass(frozen=True)
class Room:
    """The weights that a new ticket may read, may not move, and has to keep, boolean ``[N]`` each."""

    readable_N: Tensor
    frozen_N: Tensor
    kept_N: Tensor
    policy: Policy

    @classmethod
    def of(cls, tickets: TicketModel, policy: Policy) -> Room:
        """Under a policy, on weights that tickets own."""
        owned_N = tickets.owned_N
        every_N, none_N = torch.ones_like(owned_N), torch.zeros_like(owned_N)
        if policy == "free":
            return cls(~owned_N, owned_N, none_N, policy)
        if policy == "frozen":
            weights_N, _, _ = tickets.state(tickets.names[0])
            return cls(weights_N.detach() != 0, every_N, none_N, policy)
        return cls(every_N, owned_N, owned_N if policy == "all" else none_N, policy)

    def asked(self, tickets: TicketModel, sparsity: float | None) -> int:
        """The weights that the new ticket keeps.

        Raises:
            TombolaError: there are fewer.
        """
        N, left = tickets.scope.size, int((self.readable_N & ~self.kept_N).count_nonzero())
        keep = int(tickets.mask_N(0).count_nonzero()) if sparsity is None else schedules.kept(N, sparsity)
        if not keep:
            raise UsageError(f"sparsity {sparsity} leaves none of {N:,} weights: choose a lower one")
        if keep > left:
            there = "that are not zero" if self.policy == "frozen" else "that no ticket owns"
            less = f"a sparsity above {1 - left / N:.4f}, " if left else ""
            raise TombolaError(
                f"{keep:,} weights are asked for, {left:,} of {N:,} are left {there}: choose {less}"
                "policy='reuse', which reads weights of others as well, a wider network (widen=), or forget a"
                " ticket"
            )
        return keep + int(self.kept_N.count_nonzero())


def _check(
    tickets: TicketModel, name: object, objective: object, policy: str, changes: Mapping[str, Any]
) -> None:
    for change in changes:
        if change in NOT_HERE:
            raise UsageError(f"grow takes no {change}: {NOT_HERE[change]}")
    if str(changes.get("callback", "")).startswith(("set:", "rigl:")):
        raise UsageError(
            "grow moves no masks by set or rigl: choose callback=learned:LR, early_bird, or none"
        )
    check_name(name, "ticket")
    if name in tickets.names:
        raise UsageError(f"there is a ticket {name!r} already: choose another name, or forget it first")
    if policy not in get_args(Policy):
        raise UsageError(unknown("policy", policy, get_args(Policy)))
    if not isinstance(objective, Objective):
        return  # `check_kinds` says so
    kind, theirs = type(objective).__name__, tickets.metadata.get("objective")
    if objective.context_is_answer:
        raise UsageError(
            f"{kind} asks which subset a sample is of, so a new ticket needs the data of all others: find "
            "the tickets anew, or take an objective within subsets (Classification, Regression, ...)"
        )
    if theirs not in (None, kind):
        raise UsageError(
            f"the tickets were found with {theirs}, whose outputs are read otherwise: got {kind}"
        )
    if "told" in tickets.metadata:
        raise UsageError("this network is told the context, of which it knows no further one: find it anew")


def search_changes(base: Settings, size: int, keep: int, policy: Policy = "reuse") -> dict[str, Any]:
    """Changes of settings to the search of one more ticket, in as many steps as those of the others took."""
    how = {"T": base.steps_to(size, keep), "rewinding": "learning_rate", "first": "", **SEARCH}
    return how | ({"callback": ""} if policy == "all" else {})  # what others own it keeps in any case


def _settings(
    tickets: TicketModel,
    settings: Settings | None,
    sparsity: float | None,
    policy: Policy,
    changes: dict[str, Any],
) -> Settings:
    if settings is None:
        known = tickets.metadata.get("settings")
        settings = Settings.from_plain(known) if known else Settings()
        keep = int(tickets.mask_N(0).count_nonzero())
        found = search_changes(settings, tickets.scope.size, keep, policy)
        if references(tickets.backbone):  # changes begin at zero, from which no mask is learned
            found |= {"callback": "", "score": "movement"}
        changes = {**found, **changes}
    made = settings_of(settings, sparsity, changes)
    if policy == "all" and made.learned:
        raise UsageError(
            "policy='all' keeps what others own, so that no mask is learned: leave callback empty"
        )
    if made.first or made.moving:
        raise UsageError("grow draws no first mask: leave first= and callbacks that move masks out")
    # Statistics that all share are those of the others.
    return replace(made, normalization="per_ticket_statistics") if made.normalization == "shared" else made


def alike(tickets: TicketModel, data: Data, objective: Objective) -> tuple[Data, Objective]:
    """Data and objective as those of the tickets: inputs prepared, classes numbered, targets scaled alike.

    Raises:
        UsageError: the data are prepared in another way.
    """
    if (scale := tickets.metadata.get("scale")) and hasattr(objective, "scale"):
        objective = copy.copy(objective)
        found = (torch.tensor(scale[name], dtype=torch.double) for name in ("mean", "deviation"))
        objective.scale = tuple(found)
    return _numbered(tickets, _prepared(tickets, data)), objective


def _prepared(tickets: TicketModel, data: Data) -> Data:
    """Data whose inputs are prepared as those of the tickets were."""
    if tickets.metadata.get("input") is None:
        return data
    known, steps = inputs.known(tickets.metadata), prepare.described(data.prepare)
    if steps == known.prepare:
        return data
    if steps or known.own():
        theirs = ", ".join(str(step.get("step", step.get("own"))) for step in known.prepare) or "not at all"
        raise UsageError(
            f"inputs of these tickets were prepared by other steps or numbers ({theirs}): leave prepare= out,"
            " and the new ones are prepared alike"
        )
    return replace(data, prepare=prepare.restored(known.prepare))


def _numbered(tickets: TicketModel, data: Data) -> Data:
    """Data whose classes have the numbers that the tickets know them by, where both know names.

    Names that are new get the numbers after those.
    """
    known = tickets.metadata.get("class_names", [])
    if not data.class_names or not known or isinstance(known, dict) or known == list(data.class_names):
        return data
    every = [*known, *(name for name in data.class_names if name not in known)]
    numbers = torch.tensor([every.index(name) for name in data.class_names])
    parts = (replace(part, y=numbers[part.y]) for part in (data.train, data.validation, data.test))
    train, validation, test = parts
    return replace(data, train=train, validation=validation, test=test, class_names=tuple(every))


def _function(
    tickets: TicketModel, data: Data, objective: Objective, settings: Settings, name: str, seed: int
) -> FunctionalModel:
    """The network with new values where nobody has any, and what the ticket has for itself as private.

    Weights that no ticket kept are not in a ticket file and are zero. They, and what every ticket has for
    itself, begin as the layers initialise themselves; the remainder that all share is where it starts from.
    """
    network, few = copied(tickets.backbone), torch.arange(min(2, len(data.train)))
    fresh = dict(_fresh(tickets.backbone, seed, name).named_parameters())
    own = set(tickets.private.names)
    x = data.inputs("train", few, device=parameter_of(network, tickets.scope.names[0]).device)
    head = find_head(network, x, objective.read, "" if settings.head == "none" else settings.head)
    with torch.no_grad():
        owned = tickets.scope.unflatten(tickets.owned_N)
        for n, p in network.named_parameters():
            if n in owned:
                p.copy_(torch.where(owned[n] | (p != 0), p, fresh[n]))
            elif n in own and not references(network):  # what is pretrained is where it starts from
                p.copy_(fresh[n])
    for n, p in network.named_parameters():
        mine = p.ndim < 2 or n in own or (head is not None and n in head.rows)
        p.requires_grad_(n in tickets.scope.names or (p.requires_grad and mine))
        if p.requires_grad and n not in tickets.scope.names:
            own.add(n)
    return FunctionalModel(network, tickets.scope, own, frozen_norms=settings.normalization == "frozen")


def _fresh(module: nn.Module, seed: int, name: str) -> nn.Module:
    """A copy whose layers have initialised themselves anew."""
    made = copied(module)
    with torch.no_grad(), drawn_from(seed, "grow", name):
        for layer in made.modules():
            reset = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
            if callable(reset):
                reset()
            if rank_of(layer) and is_parametrized(layer, "weight") and not references(layer):
                bare = plain(copied(layer))  # the layer has drawn what is computed, not what it is made of
                bare.reset_parameters()  # type: ignore[operator]
                parameter_of(layer, "parametrizations.weight.original").copy_(parameter_of(bare, "weight"))
    return made


def _found(problem: Problem, room: Room, keep: int, s: Settings) -> TicketModel:
    """The ticket: searched for by Algorithm 1, trained by Algorithm 2, alone."""
    theta0, names = problem.f.theta0(), problem.partition.names
    masks = MaskSet(problem.f.scope, {names[0]: room.readable_N})
    counts = schedules.parse(s.schedule)(int(room.readable_N.count_nonzero()), [keep])
    theta = StartWeights([theta0], keeps=s.rewinding != "weights")
    score = scores.parse(s.score)
    if bool(room.kept_N.any()):
        score = replace(score, score=partial(_above, score.score, room.kept_N))
    pruner = Pruner(score, s.selection, s.granularity, s.floor)  # type: ignore[arg-type]
    rule = rules.parse(s.callback)
    watching = [rule] if rule is not None else []
    masks = find_tickets(problem, theta0, masks, counts, s.T, pruner=pruner, rewind=theta, callbacks=watching)
    problem = replace(problem, config=s.train)
    trained = train_jointly(problem, theta[0], masks, s.steps)
    return finish(problem, trained, masks, [0], s, {})


def _above(
    score: Callable[..., Tensor], kept_N: Tensor, context: scores.PruningContext, *batches: int
) -> Tensor:
    """Scores ``[N]`` by which some weights are pruned last, whatever the score says of them."""
    scores_N = score(context, *batches)
    low, high = scores_N.amin(), scores_N.amax()
    return torch.where(kept_N.to(scores_N.device), scores_N + (high - low + 1), scores_N)


def _about(tickets: TicketModel, name: str, policy: Policy, data: Data, width: int) -> dict[str, Any]:
    """The metadata of the tickets with one more; its outputs are so many classes, 0 for none."""
    about, outputs = dict(tickets.metadata), tickets.metadata.get("outputs", range(len(tickets.names)))
    about["outputs"] = [*outputs, max(outputs) + 1]
    if width:
        about |= _classes(tickets, name, data, width)
    about["grown"] = {**about.get("grown", {}), name: {"policy": policy}}
    return about


@torch.no_grad()
def _width(tickets: TicketModel, objective: Objective, data: Data) -> int:
    """The number of outputs that the objective reads."""
    x = data.inputs("train", torch.arange(min(2, len(data.train))), device=device_of(tickets.backbone))
    with evaluating():
        return objective.read(tickets(x, ticket=tickets.names[0])).shape[1]


def _check_classes(name: str, data: Data, width: int) -> None:
    """Raise an error of classes that the network has no output for; warn of a single one."""
    named = data.class_names
    if new := named[width:]:
        raise DataError(
            f"the data of {name!r} hold the class {new[0]!r}, and the network has outputs for "
            f"{', '.join(named[:width])}: correct the data, or find tickets anew on a wider output layer"
        )
    if len(own := data.train.y.unique().tolist()) == 1:
        only = repr(named[own[0]]) if named else own[0]
        warn(f"the data of {name!r} hold the class {only} alone: it will have no other answer")


def _classes(tickets: TicketModel, name: str, data: Data, width: int) -> dict[str, Any]:
    """The classes of each ticket, and their names, where they are not the same of all."""
    found: dict[str, Any] = {}
    every = list(range(width))
    own, known = data.train.y.unique().tolist(), tickets.metadata.get("classes")
    if known or own != every:
        found["classes"] = {**(known or dict.fromkeys(tickets.names, every)), name: own}
    before, named = tickets.metadata.get("class_names", []), list(data.class_names)
    if named and before == named[: len(before)] and isinstance(before, list) and before:
        found["class_names"] = named  # numbered alike
    elif named != before:
        each = before if isinstance(before, dict) else dict.fromkeys(tickets.names, before)
        found["class_names"] = {**each, name: named}
    return found
