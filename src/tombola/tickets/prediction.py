"""An answer with its ticket, its confidence and a reason. Shape letters: B batch, K tickets, C classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tombola._utils.batch import Batch, size
from tombola._utils.errors import TombolaError
from tombola._utils.words import MOST, counted, shortened, table
from tombola.objectives.classification import allowed, mask_logits
from tombola.objectives.regression import in_units
from tombola.tickets.fitted import answer_of, output_of, read
from tombola.tickets.grouping import asked
from tombola.tickets.passes import evaluating

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel
    from tombola.tickets.routing import Routed

LOST = "; the output is not a finite number, and no answer"


@dataclass(frozen=True)
class Prediction:
    """What tickets answer; tensors are on the CPU.

    Attributes:
        outputs: of the ticket that answered, ``[B, ...]``, those of `Regression` in the units of ``y``; for
            one-vs-rest, of every ticket ``[B, K]``.
        tickets: which ticket answered each sample.
        answer_B: int64, what was asked for; its meaning follows from the objective (`Objective.answer`) and
            the question:

            - classes within a context (`Classification`): the number of the class, as in ``y``;
            - labels within a context (`MultiLabel`): 1 or 0 for each of them, ``[B, C]``;
            - one-vs-rest, several tickets and none named: the number of the ticket, its place in
              ``TicketModel.names``;
            - one-vs-rest, one ticket named, or a network of its own: 1 for yes, 0 for no;
            - one network for all subsets (``imp``): the number of the output, as for classes;
            - all others (regression, reconstruction, enhancement): None, the answer is ``outputs``.
        probability_B: of that answer, given that this ticket is the right one, or one of the two that are
            mixed; of labels, as if they were independent; None as above.
        confidence_B: of ticket and answer together, 0 to 1.
        why: one line for each sample.
        answers: what ``answer_B`` says, by name where the file knows names: of the class, of the ticket; yes
            or no of a ticket that was named; else the number, or the list of labels. None as above.
    """

    outputs: Any
    tickets: list[str]
    answer_B: Tensor | None
    probability_B: Tensor | None
    confidence_B: Tensor
    why: list[str]
    answers: list[Any] | None = None

    def __repr__(self) -> str:
        who = ", ".join(f"{name}={count}" for name, count in Counter(self.tickets).most_common(MOST))
        return f"Prediction({counted(len(self.tickets), 'sample')}: {who})"

    def __str__(self) -> str:
        header = ["", "answer", "probability", "ticket", "confidence", "why"]
        shown, more = shortened(range(len(self.tickets)))
        return "\n".join([*table(header, map(self._row, shown), (1, 3, 5)), *more])

    def _row(self, i: int) -> list[str]:
        p_B, said = self.probability_B, "see .outputs" if self.answers is None else str(self.answers[i])
        p = "" if p_B is None else f"{float(p_B[i]):.2f}"
        return [str(i), said, p, self.tickets[i], f"{float(self.confidence_B[i]):.2f}", self.why[i]]


@torch.no_grad()
def predict(tickets: TicketModel, x: Batch, ticket: str | Sequence[str] | None, context: Any) -> Prediction:
    """The answer of `tombola.TicketModel.predict`, by name where names are known."""
    found = _predicted(tickets, x, ticket, context)
    if found.answer_B is None:
        return found
    known = tickets.metadata.get("class_names", ())
    if isinstance(known, dict):  # of tickets whose classes have names of their own
        each = [known.get(name, ()) for name in found.tickets]
        given = [of[n] if n < len(of) else n for of, n in zip(each, found.answer_B.tolist(), strict=True)]
        return replace(found, answers=given)
    names: Sequence[str] = known
    if answer_of(tickets) == "subset":
        of_all = ticket is None and len(tickets.names) > 1
        names = tickets.names if of_all else ("no", "yes")
    given = found.answer_B.tolist()
    named = answer_of(tickets) != "labels" and names
    return replace(found, answers=[names[n] if n < len(names) else n for n in given] if named else given)


def _predicted(
    tickets: TicketModel, x: Batch, ticket: str | Sequence[str] | None, context: Any
) -> Prediction:
    """The answer by the task, and by what is known of the context.

    One-vs-rest tickets are all asked where none is named, because there the context is the answer.
    """
    several = len(tickets.names) > 1
    if answer_of(tickets) == "subset" and context is None:
        if ticket is None and several:
            return one_vs_rest(tickets, x)
        if ticket is None or isinstance(ticket, str):
            return one_of(tickets, x, tickets.names[0] if ticket is None else ticket)
        raise TombolaError("one-vs-rest tickets are asked one by one, or all: pass one name, or none")
    with evaluating():
        if ticket is None and (several or context is not None):
            routed = tickets.route(x, context)
            shares = tickets.shares(routed)
            return within(tickets, [_Asked(tickets, x, n, n, share_B) for n, share_B in shares], routed)
        one = asked(ticket, tickets.names)
        names = [one] * size(x) if isinstance(one, str) else one
        return within(tickets, [_Asked(tickets, x, one, names, torch.ones(size(x)), context)], None)


class _Asked:
    """One ticket for each sample: B names, their shares in the answer, outputs, and their classes."""

    def __init__(
        self,
        tickets: TicketModel,
        x: Batch,
        ticket: str | list[str],
        names: list[str],
        share_B: Tensor,
        context: Any = None,
    ) -> None:
        self.tickets, self.names, self.share_B = tickets, names, share_B.cpu()
        self.outputs = tree_map_only(Tensor, Tensor.cpu, tickets(x, ticket=ticket, context=context))
        if answer_of(tickets) != "value" or "output" in tickets.metadata:
            self.outputs = read(tickets, self.outputs)
        if isinstance(self.outputs, Tensor):
            self.outputs = in_units(self.outputs, tickets.metadata)
        self.classes_BC = allowed(tickets.metadata, names, x)

    def probabilities(self) -> Tensor:
        """Of classes or labels, double ``[B, C]``, by each ticket's temperature if there is one."""
        calibration = self.tickets.calibration
        if self.outputs.ndim != 2:
            known = self.tickets.metadata.get("objective", "this objective")
            raise TombolaError(f"tickets of {known} give outputs [batch, classes], these do not")
        if answer_of(self.tickets) == "labels":
            return self.outputs.double().sigmoid()
        logits_BC = self.outputs
        if self.classes_BC is not None:
            logits_BC = mask_logits(logits_BC, self.classes_BC)
        if calibration is None:
            return logits_BC.double().softmax(1)
        p_BC = torch.empty_like(logits_BC, dtype=torch.double)
        for name in dict.fromkeys(self.names):
            mine = torch.tensor([each == name for each in self.names])
            p_BC[mine] = calibration.classes(logits_BC[mine], self.tickets.index(name))
        return p_BC


def _finite(p: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, 0 for samples where they are not finite, and which samples those are, ``[B]``."""
    lost_B = ~p.flatten(1).isfinite().all(1) if p.ndim > 1 else ~p.isfinite()
    return torch.where(lost_B.view(-1, *[1] * (p.ndim - 1)), 0.0, p), lost_B


def one_vs_rest(tickets: TicketModel, x: Batch) -> Prediction:
    """Ask all K tickets and couple their scores; a router lowers the confidence of unusual inputs."""
    calibration, router = tickets.calibration, tickets.router
    with evaluating():
        routed = tickets.route(x) if router is not None and router.needs_fit else None
        columns = [_own(tickets, x, name) for name in tickets.names]
    score_BK = torch.stack(columns, 1)
    if calibration is None:
        p_BK, how = score_BK.double().softmax(1), "highest of plain scores, not calibrated"
        said_BK = score_BK > 0
    else:
        p_BK, said_BK = calibration.coupled(score_BK), calibration.yes(score_BK)
        how = f"coupled by {calibration.options['coupling']}"
    p_BK, lost_B = _finite(p_BK)
    top_B, best_B = p_BK.max(1)
    names = [tickets.names[k] for k in best_B.tolist()]
    lines = []
    for i, name in enumerate(names):
        yes = [tickets.names[k] for k in said_BK[i].nonzero()[:, 0].tolist()]
        line = f"{name} {float(top_B[i]):.2f}, {how}; {', '.join(yes) or 'no ticket'} above threshold"
        lines.append(line + (routed.unlike(i) if routed is not None else ""))
    sure_B = top_B if routed is None else top_B * routed.usual_B
    return Prediction(score_BK, names, best_B, top_B, sure_B, _explained(lines, lost_B))


def one_of(tickets: TicketModel, x: Batch, name: str) -> Prediction:
    """One-vs-rest: is it ``name``? Answer 1 or 0 for each sample."""
    k, calibration = tickets.index(name), tickets.calibration
    with evaluating():
        score_B = _own(tickets, x, name)
    p_B, limit = torch.sigmoid(score_B.double()), 0.5
    if calibration is not None:
        every = score_B[:, None].expand(-1, len(tickets.names))
        p_B, limit = calibration.probability(every)[:, k], float(calibration.tensors["threshold_K"][k])
    p_B, lost_B = _finite(p_B)
    yes_B = p_B >= limit
    how = f"threshold {limit:.2f}" + ("" if calibration else ", not calibrated")
    why = [f"named; {'yes' if y else 'no'}: {float(p):.2f}, {how}" for y, p in zip(yes_B, p_B, strict=True)]
    sure_B = torch.where(yes_B, p_B, 1 - p_B).masked_fill(lost_B, 0)
    return Prediction(score_B, [name] * len(score_B), yes_B.long(), sure_B, sure_B, _explained(why, lost_B))


def within(tickets: TicketModel, parts: Sequence[_Asked], routed: Routed | None) -> Prediction:
    """A class, labels, or the outputs themselves of a context's own ticket, named or routed.

    Where two tickets are mixed, it is the mean of their probabilities, and the one with the greater part in
    the answer is named.
    """
    first, outputs, answer = parts[0], parts[0].outputs, answer_of(tickets)
    if len(parts) > 1:
        from tombola.tickets.routing import mixed

        outputs = mixed([a.outputs for a in parts], [a.share_B for a in parts], [a.classes_BC for a in parts])
    sure_B = torch.ones(len(first.names)) if routed is None else routed.confidence(len(parts)).cpu()
    why = ["named" if routed is None else routed.why(i) for i in range(len(first.names))]
    if answer not in ("class", "labels"):
        return Prediction(outputs, first.names, None, None, sure_B, why)
    each_BC = [a.share_B[:, None] * a.probabilities() for a in parts]
    p_BC, lost_B = _finite(torch.stack(each_BC).sum(0))
    if answer == "labels":
        answer_BC = p_BC > 0.5
        top_B = torch.where(answer_BC, p_BC, 1 - p_BC).prod(1).masked_fill(lost_B, 0)
        return Prediction(
            outputs, first.names, answer_BC.long(), top_B, sure_B * top_B, _explained(why, lost_B)
        )
    top_B, answer_B = p_BC.max(1)
    by_B = torch.stack([part.gather(1, answer_B[:, None])[:, 0] for part in each_BC]).argmax(0).tolist()
    names = [parts[i].names[b] for b, i in enumerate(by_B)]
    return Prediction(outputs, names, answer_B, top_B, sure_B * top_B, _explained(why, lost_B))


def _own(tickets: TicketModel, x: Batch, name: str) -> Tensor:
    outputs, k = read(tickets, tickets(x, ticket=name)), output_of(tickets, tickets.index(name))
    if outputs.ndim != 2 or k >= outputs.shape[1]:
        raise TombolaError(
            f"ticket {name} is read at output {k}, and the outputs of a batch are {list(outputs.shape)}: "
            "one-vs-rest needs [batch, outputs]"
        )
    return outputs[:, k].cpu()


def _explained(why: list[str], lost_B: Tensor) -> list[str]:
    return [line + LOST * lost for line, lost in zip(why, lost_B.tolist(), strict=True)]
