"""A router's decision, and the outputs that follow. Shape letters: B batch, K tickets, C classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tombola._utils.words import MOST, counted, shortened, table
from tombola.objectives.classification import mask_logits

USUAL = 0.05  # an input as far from every context as the outermost twentieth of known samples is unusual


@dataclass(frozen=True)
class Routed:
    """Which ticket is to answer each sample, and how sure that is.

    Attributes:
        tickets: the K names.
        scores_BK: log-posteriors ``[B, K]``.
        familiarity_B: the share of known samples that were as unusual, 0 to 1, ``[B]``.
        kind: of the router.

    >>> routed = Routed(("cat", "dog"), torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0.01]), "prototype")
    >>> routed.names, round(float(routed.confidence_B), 2)
    (['cat'], 0.18)
    >>> routed.why(0)
    'cat 0.90, then dog 0.10; unlike what was seen before (further out than 99% of known samples)'
    """

    tickets: tuple[str, ...]
    scores_BK: Tensor
    familiarity_B: Tensor
    kind: str

    def __repr__(self) -> str:
        who = ", ".join(f"{name}={count}" for name, count in Counter(self.names).most_common(MOST))
        return f"Routed({counted(len(self.scores_BK), 'sample')} by {self.kind}: {who})"

    def __str__(self) -> str:
        shown, more = shortened(self.names)
        sure = self.confidence_B.tolist()
        rows = [[str(i), name, f"{sure[i]:.2f}", self.why(i)] for i, name in enumerate(shown)]
        return "\n".join([*table(["", "ticket", "confidence", "why"], rows, (1, 3)), *more])

    @property
    def index_B(self) -> Tensor:
        """The number of the ticket of each sample, int64 ``[B]``; among equals the first."""
        return self.scores_BK.argmax(1)

    @property
    def names(self) -> list[str]:
        """The ticket of each sample."""
        return [self.tickets[k] for k in self.index_B.tolist()]

    def likeliest(self, count: int) -> list[tuple[list[str], Tensor]]:
        """The so many likeliest tickets of each sample: B names each, and shares ``[B]`` that sum to one."""
        top = self.scores_BK.topk(min(count, len(self.tickets)), 1)
        columns = zip(top.indices.T.tolist(), top.values.softmax(1).T, strict=True)
        return [([self.tickets[k] for k in column], share_B) for column, share_B in columns]

    @property
    def confidence_B(self) -> Tensor:
        """The posterior of the chosen ticket, lowered in proportion for an unusual input, ``[B]``."""
        return self.confidence(1)

    def confidence(self, count: int) -> Tensor:
        """Probability that one of the likeliest is the right one, lowered in the same way, ``[B]``."""
        mass_B = self.scores_BK.exp().topk(min(count, len(self.tickets)), 1).values.sum(1)
        return mass_B * self.usual_B

    @property
    def usual_B(self) -> Tensor:
        """1 for inputs like those that are known, down to 0 for the most unusual ones, ``[B]``."""
        return (self.familiarity_B / USUAL).clamp(max=1)

    def why(self, i: int) -> str:
        """One line on sample i."""
        share = self.scores_BK[i].exp()
        first = share.topk(min(2, len(share))).indices.tolist()
        return ", then ".join(f"{self.tickets[k]} {_two(share[k])}" for k in first) + self.unlike(i)

    def unlike(self, i: int) -> str:
        """A note on how far out sample i is; empty if it is not."""
        familiarity = float(self.familiarity_B[i])
        if familiarity >= USUAL:
            return ""
        return f"; unlike what was seen before (further out than {1 - familiarity:.0%} of known samples)"


def _two(value: Tensor) -> str:
    return f"{float(value):.2f}"


def mixed(outputs: Sequence[Any], shares: Sequence[Tensor], classes: Sequence[Tensor | None] = ()) -> Any:
    """The mean of the outputs of one or two tickets per sample, weighed.

    Tickets that answer with different classes have no logits in common. Of them it is probabilities that are
    weighed, and the outputs are their logarithms, very low for classes of neither.

    Args:
        outputs: of each of them, ``[B, ...]`` or any structure of tensors.
        shares: the weight of each, ``[B]``; they sum to one (`Routed.likeliest`).
        classes: with which each answers, boolean ``[B, C]``; None or nothing for all outputs.

    >>> mixed([torch.zeros(1, 1), torch.ones(1, 1)], [torch.tensor([0.75]), torch.tensor([0.25])]).tolist()
    [[0.25]]
    """

    def weighed(*parts: Tensor) -> Tensor:
        return sum(  # type: ignore[return-value]
            part * share.to(part).view(-1, *[1] * (part.ndim - 1))
            for part, share in zip(parts, shares, strict=True)
        )

    if len(outputs) == 1:
        return outputs[0]
    if known := [rows for rows in classes if rows is not None]:
        p = weighed(*(mask_logits(each, own).softmax(1) for each, own in zip(outputs, known, strict=True)))
        return p.clamp(min=torch.finfo(p.dtype).tiny).log()  # finite, so that gradients are
    return tree_map(weighed, *outputs)
