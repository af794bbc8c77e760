"""What a router answers. Shape letters: B batch, K tickets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

USUAL = 0.05  # an input as far from every context as the outermost twentieth of known samples is unusual


@dataclass(frozen=True)
class Routed:
    """Which ticket is to answer each sample, and how sure that is.

    Attributes:
        tickets: the K names.
        scores_BK: log-posteriors ``[B, K]``.
        familiarity_B: the share of known samples that were as unusual, 0 to 1, ``[B]``.
        kind: of the router.

    >>> import torch
    >>> routed = Routed(("cat", "dog"), torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0.01]), "prototype")
    >>> routed.names, round(float(routed.confidence_B), 2)
    (['cat'], 0.18)
    >>> routed.why(0)
    'cat .90, then dog .10; unlike what was seen before (further out than 99% of known samples)'
    """

    tickets: tuple[str, ...]
    scores_BK: Tensor
    familiarity_B: Tensor
    kind: str

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
        """That one of the so many likeliest is the right one, lowered in the same way, ``[B]``."""
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
        """How far out sample i is; empty if it is not."""
        familiarity = float(self.familiarity_B[i])
        if familiarity >= USUAL:
            return ""
        return f"; unlike what was seen before (further out than {1 - familiarity:.0%} of known samples)"


def _two(value: Tensor) -> str:
    return f"{float(value):.2f}".removeprefix("0")
