"""What routing is worth in one run: the oracle, every router, a random choice, one ticket, one network.

Shape letters: S samples of a split, T samples of a stream, K tickets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median_high
from time import process_time
from timeit import timeit
from typing import Any, Self

import torch
from torch import Tensor, nn

from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.lab.evaluation.loaded_run import Answers, LoadedRun, Quality
from tombola.lab.evaluation.tables import Values, rows
from tombola.objectives import Objective
from tombola.objectives.metrics import metric_info
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import Routed, Router, Window, router
from tombola.tickets.routing.features import FeatureCache

SINGLE = ("dense", "imp", "union_size_imp")  # networks for all contexts, which need no router
DRAWS = 5  # random assignments whose mean is reported
HOLD = 32  # samples of a stream for which a context lasts
WINDOWS = ((1, 0.0), (1, 2.0), (2, 0.0), (4, 0.0), (8, 0.0), (16, 0.0), (8, 0.5))  # size, margin
BATCHES = (1, 64)  # that are timed


@dataclass(frozen=True)
class RouterEvaluator:
    """The tickets of a run, asked once, and judged for as many choices among them as are wished.

    Class tickets are the answer themselves: a choice is right or wrong, and the oracle is leakage.
    """

    loaded: LoadedRun  # the run
    truth_S: Tensor  # the number of the context of each test sample
    answers: Answers | None  # of all tickets to the test split; None for class tickets
    fixed: int  # the ticket that serves all contexts best on validation data
    K: int  # how many tickets there are

    @classmethod
    def of(cls, loaded: LoadedRun, tickets: TicketModel) -> Self:
        """Ask every ticket for every sample."""
        baked, held = [tickets.bake(name) for name in tickets.names], loaded.judged_on_validation()
        K, truth_S = len(baked), loaded.where("test")
        if loaded.objective.context_is_answer:
            return cls(loaded, truth_S, None, int(held.where("test").bincount(minlength=K).argmax()), K)
        answers, nobody = held.answers(baked), torch.zeros(len(held.data.test), dtype=torch.int64)
        judged = [held.judge(partial(answers.chosen, nobody + k)) for k in range(K)]
        fixed = max(range(K), key=lambda k: metric_info(judged[k][0]).ahead(judged[k][1], 0))
        return cls(loaded, truth_S, loaded.answers(baked), fixed, K)

    def __call__(self, chosen_S: Tensor) -> dict[str, float]:
        """What it is worth that ticket ``chosen_S[i]`` answers sample i (`scaled`)."""
        return self.scaled(self._quality(chosen_S))

    def routed(self, routed: Routed, mix: int) -> dict[str, float]:
        """What a routing of the test split is worth; with ``mix=2`` the two likeliest tickets answer."""
        if mix == 1 or self.answers is None:
            return self(routed.index_B)
        return self.scaled(self.loaded.judge(partial(self.answers.mixed, routed)))

    def random(self) -> dict[str, float]:
        """What random choices are worth, in the mean of `DRAWS`."""
        generators = [generator(self.loaded.seed, "random router", i) for i in range(DRAWS)]
        drawn = [torch.randint(self.K, self.truth_S.shape, generator=g) for g in generators]
        return self.scaled((self._oracle[0], sum(self._quality(chosen_S)[1] for chosen_S in drawn) / DRAWS))

    def alone(self, network: nn.Module) -> dict[str, float]:
        """What one network for all contexts is worth, which answers among all classes."""
        return self.scaled(self.loaded.quality([network], torch.zeros_like(self.truth_S), known=False))

    def right(self, chosen_S: Tensor) -> float:
        """The share of samples that are sent to their own ticket."""
        return float((chosen_S == self.truth_S).double().mean())

    def scaled(self, metric: Quality) -> dict[str, float]:
        """A metric, and the share of the gap from the best ticket (0) to the oracle (1) that it closes."""
        name, value = metric
        low, high = self._best[1], self._oracle[1]
        if self.answers is None or abs(high - low) < 1e-9:
            return {name: value}
        return {name: value, "gap_closed": (value - low) / (high - low)}

    @cached_property
    def _best(self) -> Quality:
        return self._quality(torch.full_like(self.truth_S, self.fixed))

    @cached_property
    def _oracle(self) -> Quality:
        return self._quality(self.truth_S)

    def _quality(self, chosen_S: Tensor) -> Quality:
        if self.answers is None:
            return "accuracy", self.right(chosen_S)
        return self.loaded.judge(partial(self.answers.chosen, chosen_S))


def defaults(objective: Objective) -> dict[str, dict[str, Any]]:
    """The routers that are measured for a task where none is named, with their options.

    >>> from tombola.objectives import Enhancement
    >>> list(defaults(Enhancement()))
    ['prototype', 'gate', 'score', 'prototype, top 2']
    """
    bands = {"bands": 16} if objective.sound else {}  # the last axis is frequency
    found: dict[str, dict[str, Any]] = {"prototype": {**bands}, "gate": {**bands}}
    if objective.router_score:
        found["score"] = {**bands}
    if objective.answer in ("class", "subset"):
        found |= {"superposition": {}, "superposition, binary": {"search": "binary"}}
    if objective.answer != "subset":
        found["prototype, top 2"] = {"mix": 2, **bands}
    return found


def measure(
    loaded: LoadedRun,
    tickets: TicketModel,
    wanted: Mapping[str, Mapping[str, Any]],
    single: Mapping[str, TicketModel],
    on_progress: Callable[[str], None],
    now: Callable[[str], None] = lambda _: None,
) -> tuple[Values, dict[str, Router]]:
    """All values of one run at one sparsity, and the routers, fitted.

    ``wanted`` are routers by the name of their row, which begins with the router's, with options; ``single``
    are networks for all contexts, by method. ``on_progress`` is told what was measured, ``now`` what begins.
    """
    evaluator, leak = RouterEvaluator.of(loaded, tickets), loaded.objective.context_is_answer
    title = "oracle (leakage: the context is the label)" if leak else "oracle"
    values = rows({"router": title}, {**evaluator(evaluator.truth_S), "routing_accuracy": 1.0})
    made: dict[str, Router] = {}
    looked: FeatureCache = {}
    for who, options in wanted.items():
        now(f"{who}, fitting")
        kind = who.partition(",")[0]
        made[who] = router(kind, **options).fit(tickets, loaded.data, loaded.partition, looked)
        now(f"{who}, on test data")
        routed = over_test(made[who], tickets, loaded.data)
        values += _of_router(who, made[who], routed, evaluator)
        values += rows({"router": who}, latency(made[who], tickets, loaded.data))
        on_progress(f"{who} sends {evaluator.right(routed.index_B):.1%} to the right ticket")
    now("one ticket, a random ticket, one network")
    values += rows({"router": "best_fixed"}, evaluator(torch.full_like(evaluator.truth_S, evaluator.fixed)))
    values += rows({"router": "random"}, evaluator.random())
    if not leak:  # where the context is the answer, `tombola calibrate` reads them beside coupled tickets
        for method, model in single.items():
            values += rows({"router": method}, evaluator.alone(model.bake(model.names[0])))
    return values, made


def over_test(made: Router, tickets: TicketModel, data: Data) -> Routed:
    """The routing of the whole test split."""
    parts = [made.route(tickets, x) for x in data.batches("test", torch.arange(len(data.test)).split(128))]
    scores = torch.cat([part.scores_BK for part in parts])
    return Routed(parts[0].tickets, scores, torch.cat([part.familiarity_B for part in parts]), made.kind)


def _of_router(who: str, made: Router, routed: Routed, evaluator: RouterEvaluator) -> Values:
    """One router: what it is worth, sample by sample and over windows, its confidence, size and confusion."""
    mix, truth_S = made.options["mix"], evaluator.truth_S
    found = {**evaluator.routed(routed, mix), "routing_accuracy": evaluator.right(routed.index_B)}
    found |= {"confidence": float(routed.confidence_B.mean())}
    values = rows({"router": who}, {**found, "numbers": made.numbers(), "stored": made.stored()})
    for k, context in enumerate(routed.tickets):  # shares of its samples that went to each ticket
        sent_K = routed.index_B[truth_S == k].bincount(minlength=evaluator.K).double()
        for ticket, share in zip(routed.tickets, sent_K / sent_K.sum().clamp(min=1), strict=True):
            what = {"router": who, "metric": "routed_share", "context": context, "ticket": ticket}
            values.append({**what, "value": float(share)})
    if mix == 1 and evaluator.answers is not None:
        for window, on_stream in _windows(evaluator, routed.scores_BK):
            values += rows({"router": who, **window}, on_stream)
    return values


def stream(truth_S: Tensor, K: int, seed: int) -> Tensor:
    """An order of samples in which each context lasts for `HOLD` of them, int64 ``[T]``, all samples once."""
    order = torch.randperm(len(truth_S), generator=generator(seed, "stream"))
    pieces = [[*order[truth_S[order] == k].split(HOLD)] for k in range(K)]
    turns = max(map(len, pieces))
    return torch.cat([pieces[k][i] for i in range(turns) for k in range(K) if i < len(pieces[k])])


def _windows(
    evaluator: RouterEvaluator, scores_SK: Tensor
) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """By window and margin: routing accuracy, what the choices are worth, and switches, on one stream."""
    truth_S = evaluator.truth_S
    order = stream(truth_S, evaluator.K, evaluator.loaded.seed)
    for size, margin in WINDOWS:
        window, chosen_S = Window(size, margin), torch.empty_like(truth_S)
        chosen_S[order] = window(scores_SK[order])
        found = {"routing_accuracy": evaluator.right(chosen_S), **evaluator(chosen_S)}
        moves = {"switches": window.switches, "true_switches": int((truth_S[order].diff() != 0).sum())}
        yield {"window": size, "margin": margin}, {**found, **moves}


@torch.no_grad()
def latency(made: Router, tickets: TicketModel, data: Data, repeats: int = 7) -> dict[str, float]:
    """Milliseconds of processor time of routing and of a ticket's pass, for 1 sample and a batch; medians."""
    found: dict[str, float] = {}
    for size in BATCHES:
        x = data.inputs("test", torch.arange(min(size, len(data.test))))
        jobs = {"route": partial(made.route, tickets, x), "ticket": partial(tickets, x, tickets.names[0])}
        found |= {f"ms_{name}_{size}": median_ms([job] * repeats) for name, job in jobs.items()}
    return found


def median_ms(jobs: Iterable[Callable[[], Any]]) -> float:
    """The median of milliseconds of processor time: not that of other programs on the machine."""
    return 1e3 * median_high(timeit(job, timer=process_time, number=1) for job in jobs)
