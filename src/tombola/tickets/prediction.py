"""An answer with its ticket, its confidence and a reason. Shape letters: B batch, K tickets, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tombola._utils.errors import TombolaError, UnknownTicket
from tombola._utils.torch_state import in_mode
from tombola.objectives.classes import allowed, mask_logits
from tombola.tickets.calibration import Calibration
from tombola.tickets.routing import Routed, Router, mixed
from tombola.tickets.routing.router import Tickets, output_of

LOST = "; the output is not a finite number, and no answer"


@dataclass(frozen=True)
class Prediction:
    """What tickets answer; tensors are on the CPU.

    Attributes:
        outputs: of the ticket that answered, ``[B, ...]``; for one-vs-rest, of every ticket ``[B, K]``.
        tickets: which ticket answered each sample.
        answer_B: int64, what was asked for; its meaning follows from the objective and the question:

            - classes within a context (`Classification`): the number of the class, as in ``y``;
            - one-vs-rest, several tickets and none named: the number of the ticket, its place in
              ``TicketModel.names``;
            - one-vs-rest, one ticket named, or a network of its own: 1 for yes, 0 for no;
            - one network for all subsets (``imp``): the number of the output, as for classes;
            - all others (reconstruction, enhancement): None, the answer is ``outputs``.
        probability_B: of that answer, given that this ticket is the right one, or one of the two that are
            mixed; None as above.
        confidence_B: of ticket and answer together, 0 to 1.
        why: one line for each sample.
    """

    outputs: Any
    tickets: list[str]
    answer_B: Tensor | None
    probability_B: Tensor | None
    confidence_B: Tensor
    why: list[str]


class Answering(Tickets, Protocol):
    """Tickets with what was fitted for them."""

    calibration: Calibration | None
    router: Router | None

    def __call__(self, x: Tensor, ticket: str | Sequence[str] | None = None, *, context: Any = None) -> Any:
        """Outputs."""
        ...

    def route(self, x: Tensor, context: Any = None) -> Routed:
        """Who is to answer."""
        ...


@torch.no_grad()
def predict(tickets: Answering, x: Tensor, ticket: str | Sequence[str] | None, context: Any) -> Prediction:
    """What `tombola.TicketModel.predict` answers: by the task, and by what is known of the context.

    One-vs-rest tickets are all asked where none is named, because there the context is the answer.
    """
    several = len(tickets.names) > 1
    if _against_rest(tickets) and context is None:
        if ticket is None and several:
            fitted = tickets.router is not None and tickets.router.needs_fit
            with in_mode(tickets.backbone, training=False):
                usual = tickets.route(x) if fitted else None
            return one_vs_rest(tickets, x, tickets.calibration, usual)
        if ticket is None or isinstance(ticket, str):
            name = tickets.names[0] if ticket is None else ticket
            return one_of(tickets, x, name, tickets.calibration)
        raise TombolaError("one-vs-rest tickets are asked one by one, or all: pass one name, or none")
    with in_mode(tickets.backbone, training=False):
        if ticket is None and (several or context is not None):
            routed = tickets.route(x, context)
            likeliest = routed.likeliest(tickets.router.options["mix"] if tickets.router is not None else 1)
            asked = [_Asked.of(tickets, x, names, names, share_B) for names, share_B in likeliest]
            return within(tickets, asked, routed)
        one = tickets.names[0] if ticket is None else ticket
        names = [one] * len(x) if isinstance(one, str) else list(one)
        return within(tickets, [_Asked.of(tickets, x, one, names, torch.ones(len(x)), context)], None)


@dataclass(frozen=True)
class _Asked:
    """One ticket for each sample: B names, their shares in the answer, outputs, and their classes."""

    names: list[str]
    share_B: Tensor
    outputs: Any
    classes_BC: Tensor | None

    @classmethod
    def of(
        cls,
        tickets: Answering,
        x: Tensor,
        ticket: str | Sequence[str],
        names: list[str],
        share_B: Tensor,
        context: Any = None,
    ) -> _Asked:
        outputs = tree_map_only(Tensor, Tensor.cpu, tickets(x, ticket=ticket, context=context))
        return cls(names, share_B.cpu(), outputs, allowed(tickets.metadata, names, x))

    def probabilities(self, tickets: Answering) -> Tensor:
        """Of the classes, ``[B, C]`` double, by each ticket's own temperature if there is one.

        Raises:
            TombolaError: outputs that are not ``[B, C]``.
        """
        if not isinstance(self.outputs, Tensor) or self.outputs.ndim != 2:
            raise TombolaError("tickets of Classification give outputs [batch, classes], these do not")
        logits_BC = self.outputs.detach()
        if self.classes_BC is not None:
            logits_BC = mask_logits(logits_BC, self.classes_BC)
        if tickets.calibration is None:
            return logits_BC.double().softmax(1)
        p_BC = torch.empty_like(logits_BC, dtype=torch.double)
        for name in dict.fromkeys(self.names):
            mine = torch.tensor([each == name for each in self.names])
            p_BC[mine] = tickets.calibration.classes(logits_BC[mine], tickets.names.index(name))
        return p_BC


def _against_rest(tickets: Tickets) -> bool:
    """Whether each ticket says if a sample is of its subset; one network for all data chooses among them."""
    task = tickets.metadata.get("task", "own" if len(tickets.names) > 1 else "single")
    return tickets.metadata.get("objective") == "OneVsRest" and not task.startswith("single")


def _finite(p: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, 0 for samples where they are not finite, and which samples those are, ``[B]``."""
    lost_B = ~p.flatten(1).isfinite().all(1) if p.ndim > 1 else ~p.isfinite()
    return torch.where(lost_B.view(-1, *[1] * (p.ndim - 1)), 0.0, p), lost_B


@torch.no_grad()
def one_vs_rest(
    tickets: Tickets, x: Tensor, calibration: Calibration | None, routed: Routed | None
) -> Prediction:
    """All K tickets are asked, and their scores coupled: the context is the answer, no router is needed.

    Where there is one, it lowers the confidence of inputs that are unlike those that it knows.
    """
    with in_mode(tickets.backbone, training=False):
        asked = enumerate(tickets.names)
        columns = [tickets(x, ticket=name)[:, output_of(tickets, k)].cpu() for k, name in asked]
    score_BK = torch.stack(columns, 1)
    if calibration is None:
        p_BK, how = score_BK.double().softmax(1), "highest of plain scores, not calibrated"
        said_BK = score_BK > 0
    else:
        p_BK, said_BK = calibration.coupled(score_BK), calibration.yes(score_BK)
        how = f"coupled by {calibration.options['coupling']}"
    p_BK, lost_B = _finite(p_BK)
    best_B = p_BK.argmax(1)
    top_B = p_BK.gather(1, best_B[:, None])[:, 0]
    names = [tickets.names[k] for k in best_B.tolist()]
    lines = []
    for i, name in enumerate(names):
        yes = [tickets.names[k] for k in said_BK[i].nonzero()[:, 0].tolist()]
        line = f"{name} {float(top_B[i]):.2f}, {how}; {', '.join(yes) or 'no ticket'} above threshold"
        lines.append(line + (routed.unlike(i) if routed is not None else "") + (LOST if lost_B[i] else ""))
    sure_B = top_B if routed is None else top_B * routed.usual_B
    return Prediction(score_BK, names, best_B, top_B, sure_B, lines)


@torch.no_grad()
def one_of(tickets: Tickets, x: Tensor, name: str, calibration: Calibration | None) -> Prediction:
    """One-vs-rest: is it ``name``? Answer 1 or 0 for each sample."""
    if name not in tickets.names:
        raise UnknownTicket(name, tickets.names)
    k = tickets.names.index(name)
    with in_mode(tickets.backbone, training=False):
        score_B = tickets(x, ticket=name)[:, output_of(tickets, k)].cpu()
    p_B, limit = torch.sigmoid(score_B.double()), 0.5
    if calibration is not None:
        every = score_B[:, None].expand(-1, len(tickets.names))
        p_B, limit = calibration.probability(every)[:, k], float(calibration.tensors["threshold_K"][k])
    p_B, lost_B = _finite(p_B)
    yes_B = p_B >= limit
    how = f"threshold {limit:.2f}" + ("" if calibration else ", not calibrated")
    why = [f"named; {'yes' if y else 'no'}: {float(p):.2f}, {how}" for y, p in zip(yes_B, p_B, strict=True)]
    why = [line + (LOST if lost else "") for line, lost in zip(why, lost_B, strict=True)]
    sure_B = torch.where(yes_B, p_B, 1 - p_B).masked_fill(lost_B, 0)
    return Prediction(score_B, [name] * len(x), yes_B.long(), sure_B, sure_B, why)


def within(tickets: Answering, asked: Sequence[_Asked], routed: Routed | None) -> Prediction:
    """A context's own ticket has answered, named or routed; classes if it is a classifier.

    Where the router mixes two tickets, it is the mean of their probabilities, and the ticket that is named is
    the one with the greater part in the answer.

    Raises:
        TombolaError: a classifier's outputs are not ``[B, C]``.
    """
    first = asked[0]
    outputs = mixed([a.outputs for a in asked], [a.share_B for a in asked], [a.classes_BC for a in asked])
    sure_B = torch.ones(len(first.names)) if routed is None else routed.confidence(len(asked)).cpu()
    why = ["named" if routed is None else routed.why(i) for i in range(len(first.names))]
    objective = tickets.metadata.get("objective")
    if objective != "Classification" and (objective != "OneVsRest" or _against_rest(tickets)):
        return Prediction(outputs, first.names, None, None, sure_B, why)
    parts_BC = [a.share_B[:, None] * a.probabilities(tickets) for a in asked]
    p_BC, lost_B = _finite(torch.stack(parts_BC).sum(0))
    why = [line + (LOST if lost else "") for line, lost in zip(why, lost_B, strict=True)]
    top_B, answer_B = p_BC.max(1)
    by_B = torch.stack([part.gather(1, answer_B[:, None])[:, 0] for part in parts_BC]).argmax(0).tolist()
    names = [asked[i].names[b] for b, i in enumerate(by_B)]
    return Prediction(outputs, names, answer_B, top_B, sure_B * top_B, why)
