"""What routing is worth in one run: the oracle, every router, a random choice, one ticket, one network.

Shape letters: S samples of a split, K tickets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tombola.data.dataset import Data
from tombola.lab.evaluation.judge import RouterEvaluator
from tombola.lab.evaluation.latency import latency
from tombola.lab.evaluation.values import Values, rows
from tombola.lab.evaluation.windows import windows
from tombola.lab.evaluation.world import LoadedRun
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import Routed, Router, router
from tombola.tickets.routing.features import FeatureCache

SINGLE = ("dense", "imp", "union_size_imp")  # networks for all contexts, which need no router


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
    loaded: LoadedRun,
    tickets: TicketModel,
    wanted: Mapping[str, Mapping[str, Any]],
    single: Mapping[str, TicketModel],
    on_progress: Callable[[str], None],
    now: Callable[[str], None] = lambda _: None,
) -> tuple[Values, dict[str, Router]]:
    """All values of one run at one sparsity, and the routers, fitted.

    Args:
        world: the run.
        tickets: one per context.
        wanted: routers by the name of their row, with options; the name begins with the router's.
        single: networks for all contexts, by method.
        tell: is told of every router when it is measured.
        now: is told what begins.
    """
    judge, leak = RouterEvaluator.of(loaded, tickets), loaded.objective.context_is_answer
    title = "oracle (leakage: the context is the label)" if leak else "oracle"
    values = rows({"router": title}, {**judge(judge.truth_S), "routing_accuracy": 1.0})
    made: dict[str, Router] = {}
    looked: FeatureCache = {}
    for who, options in wanted.items():
        kind = who.partition(",")[0]
        now(f"{who}, fitting")
        made[who] = router(kind, **options).fit(tickets, loaded.data, loaded.partition, looked)
        now(f"{who}, on test data")
        routed = over(made[who], tickets, loaded.data, "test")
        values += _router(who, made[who], routed, judge)
        values += rows({"router": who}, latency(made[who], tickets, loaded.data))
        on_progress(f"{who} sends {judge.right(routed.index_B):.1%} to the right ticket")
    now("one ticket, a random ticket, one network")
    values += rows({"router": "best_fixed"}, judge.best_fixed())
    values += rows({"router": "random"}, judge.random())
    if not leak:  # where the context is the answer, `tombola calibrate` reads them beside coupled tickets
        for method, model in single.items():
            values += rows({"router": method}, judge.alone(model.bake(model.names[0])))
    return values, made


def over(made: Router, tickets: TicketModel, data: Data, split: str, batch: int = 128) -> Routed:
    """The routing of a whole split."""
    parts = [
        made.route(tickets, data.inputs(split, index))
        for index in torch.arange(len(data.split(split))).split(batch)
    ]
    scores = torch.cat([part.scores_BK for part in parts])
    return Routed(parts[0].tickets, scores, torch.cat([part.familiarity_B for part in parts]), made.kind)


def _router(who: str, made: Router, routed: Routed, judge: RouterEvaluator) -> Values:
    """One router: what it is worth, sample by sample and over windows, its confidence, size and confusion."""
    mix = made.options["mix"]
    found = {
        **judge.routed(routed, mix),
        "routing_accuracy": judge.right(routed.index_B),
        "confidence": float(routed.confidence_B.mean()),
        "numbers": made.numbers(),
        "stored": made.stored(),
    }
    values = rows({"router": who}, found) + _confusion(who, routed, judge.truth_S)
    if mix == 1 and judge.answers is not None:
        for window, on_stream in windows(judge, routed.scores_BK):
            values += rows({"router": who, **window}, on_stream)
    return values


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
