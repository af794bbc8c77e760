"""What calibration and coupling make of class tickets, read as the single mask is. S samples, K tickets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from tombola.calibration import (
    Calibration,
    brier,
    calibration_error,
    estimated,
    log_odds,
    reliability,
    shifted,
    threshold,
)
from tombola.calibration.coupling import COUPLINGS
from tombola.calibration.scaling import KINDS
from tombola.evaluation.world import World
from tombola.objectives.readings import decisions
from tombola.objectives.subset_softmax import SubsetSoftmax
from tombola.pipeline import predict
from tombola.tickets import TicketModel

Values = list[dict[str, Any]]  # reading, metric, value; the rest of a row is the caller's
Scores = Mapping[str, Tensor]  # of validation and test, [S, K]
RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MISS = 0.1


def scores(world: World, tickets: TicketModel) -> dict[str, Tensor]:
    """The score matrix of both held-out splits: output k of ticket k, or the log-odds of one softmax."""
    found = {}
    for split in ("validation", "test"):
        if len(tickets.names) == 1:
            outputs = predict(tickets.bake(tickets.names[0]), world.data, split)
            found[split] = SubsetSoftmax.log_odds(outputs[:, : len(world.partition)])
            continue
        columns = [predict(tickets.bake(n), world.data, split)[:, k] for k, n in enumerate(tickets.names)]
        found[split] = torch.stack(columns, 1)
    return found


def measure(score: Scores, members: Mapping[str, Tensor], single_recall: float) -> Values:
    """All readings of one score matrix; whatever is chosen is chosen on validation data.

    Args:
        score: ``validation`` and ``test``, ``[S, K]``.
        members: who belongs to what, boolean, by split.
        single_recall: the macro recall of the single mask's argmax on validation data, at which precisions
            are compared.
    """
    values: Values = []
    val, test = score["validation"].double(), score["test"].double()
    val_SK, test_SK, K = members["validation"], members["test"], score["test"].shape[1]
    truth, names = test_SK.int().argmax(1), tuple(map(str, range(K)))

    def add(reading: str, **found: float | Tensor) -> None:
        values.extend({"reading": reading, "metric": name, "value": float(v)} for name, v in found.items())

    prior_K = val_SK.double().mean(0)
    add("probability one half", **macro(test > 0, test_SK))
    add("prior shift", **macro(shifted(test, prior_K) >= 0, test_SK))
    add("plain scores", **areas(test, test_SK), **_probabilities(torch.sigmoid(test), test_SK))
    add("prior shift", **_probabilities(torch.sigmoid(shifted(test, prior_K)), test_SK))
    add(
        "prior by EM", error_of_prior=(estimated(torch.sigmoid(test)) - test_SK.double().mean(0)).abs().mean()
    )
    for method in KINDS:
        made = Calibration(method, "argmax", "f1").fit_scores(val, val_SK, names)
        p = made.probability(test)
        add(method, **_probabilities(p, test_SK), **macro(made.yes(test), test_SK))
        if method == "platt":
            balanced = torch.sigmoid(shifted(log_odds(p), torch.full_like(prior_K, 0.5), prior_K))
            error = (estimated(balanced) - test_SK.double().mean(0)).abs().mean()
            add("platt, then prior by EM", error_of_prior=error)
            values += _bars("platt", p, test_SK)
            recalled = _at_recall(made.probability(val), val_SK, p, single_recall)
            add("each ticket, at the single mask's recall", **macro(recalled, test_SK))
    values += _bars("plain scores", torch.sigmoid(test), test_SK)
    for kind in COUPLINGS:
        made = Calibration("platt", kind, "f1").fit_scores(val, val_SK, names)
        p = made.coupled(test)
        best = torch.nn.functional.one_hot(p.argmax(1), K).bool()
        right = p.argmax(1) == truth
        add(f"coupled: {kind}", accuracy=right.double().mean(), **macro(best, test_SK), **areas(p, test_SK))
        add(f"coupled: {kind}", ece=calibration_error(p.max(1).values, right), brier=brier(p, truth))
        named = Calibration("platt", kind, "f1", MISS).fit_scores(val, val_SK, names).sets(test)
        missed = 1 - torch.stack([named[truth == k, k].double().mean() for k in range(K)])
        add(
            f"coupled: {kind}",
            set_size=named.sum(1).double().mean(),
            missed=missed.mean(),
            missed_most=missed.max(),
        )
        if kind == "vector":
            recalled = _at_recall(made.coupled(val), val_SK, p, single_recall)
            add("coupled: vector, at the single mask's recall", **macro(recalled, test_SK))
            values += _curve("coupled: vector", p, test_SK)
    return values + _curve("plain scores", test, test_SK)


def macro(yes_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    """Means over tickets of balanced accuracy, precision and recall."""
    each = [decisions(true_SK[:, k].numpy(), yes_SK[:, k].numpy()) for k in range(true_SK.shape[1])]
    return {name: float(np.mean([found[name] for found in each])) for name in each[0]}


def areas(score_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    """Means over tickets of ROC AUC and average precision."""
    pairs = [(true_SK[:, k].numpy(), score_SK[:, k].numpy()) for k in range(true_SK.shape[1])]
    return {
        "auc": float(np.mean([roc_auc_score(*pair) for pair in pairs])),
        "average_precision": float(np.mean([average_precision_score(*pair) for pair in pairs])),
    }


def _probabilities(p_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    """Means over tickets of the calibration error and the Brier score of yes or no."""
    K = range(true_SK.shape[1])
    return {
        "ece": float(np.mean([calibration_error(p_SK[:, k], true_SK[:, k]) for k in K])),
        "brier": float(np.mean([brier(p_SK[:, k], true_SK[:, k]) for k in K])),
    }


def _at_recall(val_SK: Tensor, val_true: Tensor, test_SK: Tensor, recall: float) -> Tensor:
    """Decisions on the test split at thresholds that have this recall on validation data."""
    K = range(val_SK.shape[1])
    limits = [threshold(f"recall={recall:.6f}", val_SK[:, k], val_true[:, k]) for k in K]
    return test_SK >= torch.tensor(limits)


def _curve(reading: str, score_SK: Tensor, true_SK: Tensor) -> Values:
    """The precision-recall curve, mean over tickets, as highest precisions from given recalls on."""
    curves = [
        precision_recall_curve(true_SK[:, k].numpy(), score_SK[:, k].numpy()) for k in range(true_SK.shape[1])
    ]
    return [
        {
            "reading": reading,
            "metric": "precision_at_recall",
            "recall": recall,
            "value": float(np.mean([p[r >= recall].max() for p, r, _ in curves])),
        }
        for recall in RECALLS
    ]


def _bars(reading: str, p_SK: Tensor, true_SK: Tensor) -> Values:
    """The reliability diagram of all tickets together."""
    values = []
    for b in reliability(p_SK.flatten(), true_SK.flatten(), 10):
        row = {"reading": reading, "bin": round(b.upper, 6)}
        for name, value in (("predicted", b.predicted), ("observed", b.observed), ("count", b.count)):
            values.append({**row, "metric": name, "value": float(value)})
    return values


def single_recall(score_SK: Tensor, true_SK: Tensor) -> float:
    """The macro recall of the argmax of a score matrix."""
    best = torch.nn.functional.one_hot(score_SK.argmax(1), score_SK.shape[1]).bool()
    return macro(best, true_SK)["recall"]


def within(world: World, tickets: TicketModel) -> tuple[Values, Calibration]:
    """Classes within a given context: probabilities of its own ticket before and after its temperature."""
    made, values = Calibration().fit(tickets, world.data, world.partition), []
    parts: dict[str, list[Tensor]] = {"plain": [], "temperature": []}
    rights = []
    for k, name in enumerate(tickets.names):
        index = world.partition.members["test"][:, k].nonzero()[:, 0]
        outputs = predict(tickets.bake(name), world.data, "test", index)
        rights.append(world.data.test.y[index].long())
        parts["plain"].append(outputs.double().softmax(1))
        parts["temperature"].append(made.classes(outputs, k))
    truth = torch.cat(rights)
    for reading, found in parts.items():
        p = torch.cat(found)
        right = p.argmax(1) == truth
        metrics = {
            "accuracy": float(right.double().mean()),
            "ece": calibration_error(p.max(1).values, right),
            "brier": brier(p, truth),
        }
        values += [{"reading": reading, "metric": name, "value": value} for name, value in metrics.items()]
    return values, made
