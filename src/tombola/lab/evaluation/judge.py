"""What a choice among tickets is worth, whoever makes it, between the best ticket for all and the oracle.

Shape letters: S samples of a split, K tickets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn

from tombola._utils.rng import generator
from tombola.lab.evaluation.answers import Answers
from tombola.lab.evaluation.world import LoadedRun
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import Routed

DRAWS = 5  # random assignments whose mean is reported
Named = tuple[str, float]  # a metric: name and value


@dataclass(frozen=True)
class RouterEvaluator:
    """The tickets of a run, asked once, and judged for as many choices among them as are wished.

    Class tickets are the answer themselves: a choice is right or wrong, and the oracle is leakage.

    Attributes:
        world: the run.
        truth_S: the number of the context of each test sample.
        answers: of all tickets to the test split; None for class tickets.
        fixed: the ticket that serves all contexts best on validation data.
        K: how many tickets there are.
    """

    loaded: LoadedRun
    truth_S: Tensor
    answers: Answers | None
    fixed: int
    K: int

    @classmethod
    def of(cls, loaded: LoadedRun, tickets: TicketModel) -> Self:
        """Ask every ticket for every sample."""
        baked = [tickets.bake(name) for name in tickets.names]
        answers = None if loaded.objective.context_is_answer else loaded.answers(baked)
        return cls(loaded, loaded.where("test"), answers, _best_fixed(loaded, baked), len(baked))

    def __call__(self, chosen_S: Tensor) -> dict[str, float]:
        """What it is worth that ticket ``chosen_S[i]`` answers sample i (`scaled`)."""
        return self.scaled(self._metric(chosen_S))

    def routed(self, routed: Routed, mix: int) -> dict[str, float]:
        """What a routing of the test split is worth; with ``mix=2`` the two likeliest tickets answer."""
        if mix == 1 or self.answers is None:
            return self(routed.index_B)
        answers = self.answers

        def outputs(split: str, k: int, index: Tensor | None = None) -> Tensor:  # noqa: ARG001
            return answers.mixed(routed, torch.arange(len(routed.scores_BK)) if index is None else index)

        return self.scaled(self.loaded.judge(outputs))

    def best_fixed(self) -> dict[str, float]:
        """What the ticket that serves all contexts best is worth."""
        return self.scaled(self._best)

    def random(self) -> dict[str, float]:
        """What random choices are worth, in the mean of `DRAWS`."""
        seed, shape = self.loaded.seed, self.truth_S.shape
        drawn = [
            torch.randint(self.K, shape, generator=generator(seed, "random router", i)) for i in range(DRAWS)
        ]
        return self.scaled((self._oracle[0], sum(self._metric(chosen_S)[1] for chosen_S in drawn) / DRAWS))

    def alone(self, network: nn.Module) -> dict[str, float]:
        """What one network for all contexts is worth, which answers among all classes."""
        nobody_S = torch.zeros_like(self.truth_S)
        return self.scaled(self.loaded.quality([network], nobody_S, known=False))

    def right(self, chosen_S: Tensor) -> float:
        """The share of samples that are sent to their own ticket."""
        return float((chosen_S == self.truth_S).double().mean())

    def scaled(self, metric: Named) -> dict[str, float]:
        """A metric, and the share of the gap from the best ticket (0) to the oracle (1) that it closes."""
        name, value = metric
        low, high = self._best[1], self._oracle[1]
        if self.answers is None or abs(high - low) < 1e-9:
            return {name: value}
        return {name: value, "gap_closed": (value - low) / (high - low)}

    @cached_property
    def _best(self) -> Named:
        return self._metric(torch.full_like(self.truth_S, self.fixed))

    @cached_property
    def _oracle(self) -> Named:
        return self._metric(self.truth_S)

    def _metric(self, chosen_S: Tensor) -> Named:
        if self.answers is None:
            return "accuracy", self.right(chosen_S)
        return self.loaded.judged(self.answers, chosen_S)


def _best_fixed(loaded: LoadedRun, baked: Sequence[nn.Module]) -> int:
    held = loaded.judged_on_validation()
    if loaded.objective.context_is_answer:
        return int(held.where("test").bincount(minlength=len(baked)).argmax())
    answers, everyone = held.answers(baked), torch.zeros(len(held.data.test), dtype=torch.int64)
    return max(range(len(baked)), key=lambda k: held.judged(answers, everyone + k)[1])
