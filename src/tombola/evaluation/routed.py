"""What routing is worth in one run: the oracle, every router, a random choice, one ticket, one network.

Shape letters: S samples of a split, K tickets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tombola.data import Data
from tombola.evaluation.answers import Answers
from tombola.evaluation.world import World
from tombola.randomness import generator
from tombola.routing import Routed, Router, Window, router
from tombola.routing.looked import Looks
from tombola.tickets import TicketModel

Values = list[dict[str, Any]]  # router, metric, value; the rest of a row is the caller's
SINGLE = ("dense", "imp", "union_size_imp")  # networks for all contexts, which need no router
DRAWS = 5  # random assignments whose mean is reported
HOLD = 32  # samples for which a context lasts in the stream that windows are judged on
WINDOWS = ((1, 0.0), (1, 2.0), (2, 0.0), (4, 0.0), (8, 0.0), (16, 0.0), (8, 0.5))
BATCHES = (1, 64)


def defaults(objective: str) -> dict[str, dict[str, Any]]:
    """The routers that are measured where none is named, with their options, by the objective's name.

    >>> list(defaults("Enhancement"))
    ['prototype', 'gate', 'score', 'prototype, top 2']
    """
    bands = {"bands": 16} if objective == "Enhancement" else {}  # the last axis is frequency
    classes = objective in ("Classification", "OneVsRest")
    found: dict[str, dict[str, Any]] = {"prototype": dict(bands), "gate": dict(bands)}
    if objective != "Reconstruction":
        found["score"] = dict(bands)
    if classes:
        found |= {"superposition": {}, "superposition, binary": {"search": "binary"}}
    if objective != "OneVsRest":
        found["prototype, top 2"] = {"mix": 2, **bands}
    return found


def measure(
    world: World,
    tickets: TicketModel,
    wanted: Mapping[str, Mapping[str, Any]],
    single: Mapping[str, TicketModel],
    tell: Callable[[str], None],
) -> tuple[Values, dict[str, Router]]:
    """All values of one run at one sparsity, and the routers, fitted.

    Args:
        world: the run.
        tickets: one per context.
        wanted: routers by the name of their row, with options; the name begins with the router's.
        single: networks for all contexts, by method.
        tell: is told of every router when it is measured.
    """
    baked = [tickets.bake(name) for name in tickets.names]
    truth_S, K = world.where("test"), len(baked)
    leak = world.objective.context_is_answer
    answers = None if leak else world.answers(baked)
    judge = _class_accuracy(world) if answers is None else lambda who: world.judged(answers, who)
    metric, oracle = judge(truth_S)
    fixed = _best_fixed(world, baked)
    values: Values = []

    def add(who: str, **found: float) -> None:
        values.extend({"router": who, "metric": name, "value": value} for name, value in found.items())

    references = {
        "best_fixed": judge(torch.full_like(truth_S, fixed))[1],
        "random": _random(judge, truth_S, K, world.seed),
    }
    gap = oracle - references["best_fixed"]

    def closed(value: float) -> dict[str, float]:
        return {} if leak or abs(gap) < 1e-9 else {"gap_closed": (value - references["best_fixed"]) / gap}

    add(
        "oracle (leakage: the context is the label)" if leak else "oracle",
        **{metric: oracle, "routing_accuracy": 1.0},
        **closed(oracle),
    )
    made: dict[str, Router] = {}
    looked: Looks = {}
    for who, options in wanted.items():
        kind = who.partition(",")[0]
        made[who] = router(kind, **options).fit(tickets, world.data, world.partition, looked)
        routed = over(made[who], tickets, world.data, "test")
        if made[who].options["mix"] == 2 and answers is not None:
            value = _mixed(world, answers, routed)
        else:
            value = judge(routed.index_B)[1]
        right = float((routed.index_B == truth_S).double().mean())
        add(who, **{metric: value, "routing_accuracy": right}, **closed(value))
        add(
            who,
            confidence=float(routed.confidence_B.mean()),
            numbers=made[who].numbers(),
            stored=made[who].stored(),
        )
        add(who, **latency(made[who], tickets, world.data))
        values += _confusion(who, routed, truth_S)
        if made[who].options["mix"] == 1 and not leak:
            values += _windows(world, judge, who, routed, truth_S, closed)
        tell(f"{who} sends {right:.1%} to the right ticket")
    for who, value in references.items():
        add(who, **{metric: value}, **closed(value))
    for method, model in single.items():
        if leak:
            continue  # `tombola calibrate` reads them beside coupled tickets
        value = world.quality([model.bake(model.names[0])], torch.zeros_like(truth_S), known=False)[1]
        add(method, **{metric: value}, **closed(value))
    return values, made


def over(made: Router, tickets: TicketModel, data: Data, split: str, batch: int = 128) -> Routed:
    """The routing of a whole split."""
    parts = [
        made.route(tickets, data.inputs(split, index))
        for index in torch.arange(len(data.split(split))).split(batch)
    ]
    scores = torch.cat([part.scores_BK for part in parts])
    return Routed(parts[0].tickets, scores, torch.cat([part.familiarity_B for part in parts]), made.kind)


def _class_accuracy(world: World) -> Callable[[Tensor], tuple[str, float]]:
    """Class tickets: whoever is chosen is the answer."""
    truth_S = world.where("test")
    return lambda who: ("accuracy", float((who == truth_S).double().mean()))


def _best_fixed(world: World, baked: Sequence[nn.Module]) -> int:
    """The ticket that serves all contexts best on validation data."""
    held = world.judged_on_validation()
    if world.objective.context_is_answer:
        return int(held.where("test").bincount(minlength=len(baked)).argmax())
    answers, everyone = held.answers(baked), torch.zeros(len(held.data.test), dtype=torch.int64)
    return max(range(len(baked)), key=lambda k: held.judged(answers, everyone + k)[1])


def _random(judge: Callable[[Tensor], tuple[str, float]], truth_S: Tensor, K: int, seed: int) -> float:
    drawn = [
        torch.randint(K, truth_S.shape, generator=generator(seed, "random router", i)) for i in range(DRAWS)
    ]
    return sum(judge(who)[1] for who in drawn) / DRAWS


def _mixed(world: World, answers: Answers, routed: Routed) -> float:
    """The metric when the outputs of the two likeliest tickets are mixed."""

    def outputs(split: str, k: int, index: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return answers.mixed(routed, torch.arange(len(routed.scores_BK)) if index is None else index)

    return world.judge(outputs)[1]


def _confusion(who: str, routed: Routed, truth_S: Tensor) -> Values:
    """Shares of each context's samples that went to each ticket."""
    K = len(routed.tickets)
    counts = torch.bincount(truth_S * K + routed.index_B, minlength=K * K).view(K, K).double()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return [
        {"router": who, "metric": "routed_share", "context": a, "ticket": b, "value": float(shares[i, j])}
        for i, a in enumerate(routed.tickets)
        for j, b in enumerate(routed.tickets)
    ]


def stream(truth_S: Tensor, K: int, seed: int) -> Tensor:
    """An order of samples in which each context lasts for `HOLD` of them, int64 ``[T]``, all samples once."""
    order = torch.randperm(len(truth_S), generator=generator(seed, "stream"))
    pieces = [[*order[truth_S[order] == k].split(HOLD)] for k in range(K)]
    turns = max(map(len, pieces))
    return torch.cat([pieces[k][i] for i in range(turns) for k in range(K) if i < len(pieces[k])])


def _windows(
    world: World,
    judge: Callable[[Tensor], tuple[str, float]],
    who: str,
    routed: Routed,
    truth_S: Tensor,
    closed: Callable[[float], dict[str, float]],
) -> Values:
    """Routing accuracy, metric and switches on a stream, by window and margin."""
    order, values = stream(truth_S, len(routed.tickets), world.seed), []
    for size, margin in WINDOWS:
        window = Window(size, margin)
        chosen_S = torch.empty_like(truth_S)
        chosen_S[order] = window(routed.scores_BK[order])
        metric, value = judge(chosen_S)
        found = {
            "routing_accuracy": float((chosen_S == truth_S).double().mean()),
            metric: value,
            **closed(value),
            "switches": window.switches,
            "true_switches": int((truth_S[order].diff() != 0).sum()),
        }
        row = {"router": who, "window": size, "margin": margin}
        values += [{**row, "metric": name, "value": v} for name, v in found.items()]
    return values


@torch.no_grad()
def latency(made: Router, tickets: TicketModel, data: Data, repeats: int = 7) -> dict[str, float]:
    """Milliseconds of processor time of routing and of a ticket's pass, for 1 sample and a batch; medians."""
    found = {}
    for size in BATCHES:
        x = data.inputs("test", torch.arange(min(size, len(data.test))))
        jobs = {
            "route": lambda x=x: made.route(tickets, x),
            "ticket": lambda x=x: tickets(x, ticket=tickets.names[0]),
        }
        for name, job in jobs.items():
            spent = []
            for _ in range(repeats):
                begin = time.process_time()  # not that of other programs on the machine
                job()
                spent.append(time.process_time() - begin)
            found[f"ms_{name}_{size}"] = 1e3 * sorted(spent)[repeats // 2]
    return found
