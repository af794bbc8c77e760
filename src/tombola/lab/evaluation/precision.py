"""What calibration and coupling make of class tickets, read as the single mask is. S samples, K tickets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from tombola.lab.evaluation.values import Values, rows
from tombola.lab.evaluation.world import LoadedRun
from tombola.methods.pipeline import predict
from tombola.objectives.classes import allowed, mask_logits
from tombola.objectives.readings import decisions
from tombola.objectives.subset_softmax import SubsetSoftmax
from tombola.tickets.calibration import (
    Calibration,
    brier,
    calibration_error,
    estimated,
    log_odds,
    reliability,
    shifted,
    threshold,
)
from tombola.tickets.calibration.coupling import COUPLINGS
from tombola.tickets.calibration.maps import KINDS
from tombola.tickets.model import TicketModel

Scores = Mapping[str, Tensor]  # of validation and test, [S, K]
RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MISS = 0.1


def scores(loaded: LoadedRun, tickets: TicketModel) -> dict[str, Tensor]:
    """The score matrix of both held-out splits: output k of ticket k, or the log-odds of one softmax."""
    found = {}
    for split in ("validation", "test"):
        if len(tickets.names) == 1:
            outputs = predict(tickets.bake(tickets.names[0]), loaded.data, split)
            found[split] = SubsetSoftmax.log_odds(outputs[:, : len(loaded.partition)])
            continue
        columns = [predict(tickets.bake(n), loaded.data, split)[:, k] for k, n in enumerate(tickets.names)]
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
    plain = Held(score["validation"].double(), score["test"].double(), members)
    values = _uncalibrated(plain)
    for method in KINDS:
        values += _calibrated(method, plain, single_recall)
    for kind in COUPLINGS:
        values += _coupled(kind, plain, single_recall)
    return values


@dataclass(frozen=True)
class Held:
    """Scores of both held-out splits ``[S, K]``, float64, and who belongs to what."""

    val: Tensor
    test: Tensor
    members: Mapping[str, Tensor]

    @property
    def val_true(self) -> Tensor:
        """Who belongs to what in validation, boolean ``[S, K]``."""
        return self.members["validation"]

    @property
    def test_true(self) -> Tensor:
        """Who belongs to what in the test split, boolean ``[S, K]``."""
        return self.members["test"]

    def fit(self, made: Calibration) -> Calibration:
        """A calibration, fitted on validation scores."""
        return made.fit_scores(self.val, self.val_true, tuple(map(str, range(self.test.shape[1]))))


def _uncalibrated(s: Held) -> Values:
    """Scores as they are, and with the prior that validation has added or estimated."""
    prior_K = s.val_true.double().mean(0)
    moved, p = shifted(s.test, prior_K), torch.sigmoid(s.test)
    by_prior = {**macro(moved >= 0, s.test_true), **_probabilities(torch.sigmoid(moved), s.test_true)}
    return [
        *rows({"reading": "probability one half"}, macro(s.test > 0, s.test_true)),
        *rows({"reading": "prior shift"}, by_prior),
        *rows({"reading": "plain scores"}, {**areas(s.test, s.test_true), **_probabilities(p, s.test_true)}),
        *rows({"reading": "prior by EM"}, _error_of_prior(p, s.test_true)),
        *_bars("plain scores", p, s.test_true),
        *_curve("plain scores", s.test, s.test_true),
    ]


def _calibrated(method: str, s: Held, single_recall: float) -> Values:
    """Each ticket's yes or no by calibrated probabilities."""
    made = s.fit(Calibration(method, "argmax", "f1"))
    p = made.probability(s.test)
    values = rows(
        {"reading": method}, {**_probabilities(p, s.test_true), **macro(made.yes(s.test), s.test_true)}
    )
    if method != "platt":
        return values
    prior_K = s.val_true.double().mean(0)
    balanced = torch.sigmoid(shifted(log_odds(p), torch.full_like(prior_K, 0.5), prior_K))
    recalled = _at_recall(made.probability(s.val), s.val_true, p, single_recall)
    return [
        *values,
        *rows({"reading": "platt, then prior by EM"}, _error_of_prior(balanced, s.test_true)),
        *_bars("platt", p, s.test_true),
        *rows({"reading": "each ticket, at the single mask's recall"}, macro(recalled, s.test_true)),
    ]


def _coupled(kind: str, s: Held, single_recall: float) -> Values:
    """One answer among all classes from the K scores of class tickets, and sets that miss at most `MISS`."""
    made = s.fit(Calibration("platt", kind, "f1"))
    p, truth, K = made.coupled(s.test), s.test_true.int().argmax(1), s.test.shape[1]
    right = p.argmax(1) == truth
    named = s.fit(Calibration("platt", kind, "f1", MISS)).sets(s.test)
    missed = 1 - torch.stack([named[truth == k, k].double().mean() for k in range(K)])
    found: dict[str, float | Tensor] = {
        "accuracy": right.double().mean(),
        **macro(_one_hot(p), s.test_true),
        **areas(p, s.test_true),
        "ece": calibration_error(p.max(1).values, right),
        "brier": brier(p, truth),
        "set_size": named.sum(1).double().mean(),
        "missed": missed.mean(),
        "missed_most": missed.max(),
    }
    values = rows({"reading": f"coupled: {kind}"}, found)
    if kind != "vector":
        return values
    recalled = _at_recall(made.coupled(s.val), s.val_true, p, single_recall)
    return [
        *values,
        *rows({"reading": "coupled: vector, at the single mask's recall"}, macro(recalled, s.test_true)),
        *_curve("coupled: vector", p, s.test_true),
    ]


def _one_hot(score_SK: Tensor) -> Tensor:
    """The best of each row, boolean ``[S, K]``."""
    return torch.nn.functional.one_hot(score_SK.argmax(1), score_SK.shape[1]).bool()


def _error_of_prior(p_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    """How far the prior that EM finds in probabilities of a balanced one is off, in the mean of tickets."""
    return {"error_of_prior": float((estimated(p_SK) - true_SK.double().mean(0)).abs().mean())}


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
    values: Values = []
    for recall in RECALLS:
        best = np.mean([p[r >= recall].max() for p, r, _ in curves])
        values += rows({"reading": reading, "recall": recall}, {"precision_at_recall": float(best)})
    return values


def _bars(reading: str, p_SK: Tensor, true_SK: Tensor) -> Values:
    """The reliability diagram of all tickets together."""
    values: Values = []
    for b in reliability(p_SK.flatten(), true_SK.flatten(), 10):
        what = {"reading": reading, "bin": round(b.upper, 6)}
        values += rows(what, {"predicted": b.predicted, "observed": b.observed, "count": b.count})
    return values


def single_recall(score_SK: Tensor, true_SK: Tensor) -> float:
    """The macro recall of the argmax of a score matrix."""
    return macro(_one_hot(score_SK), true_SK)["recall"]


def within(loaded: LoadedRun, tickets: TicketModel) -> tuple[Values, Calibration]:
    """Classes within a given context: probabilities of its own ticket before and after its temperature."""
    made, values = Calibration().fit(tickets, loaded.data, loaded.partition), []
    parts: dict[str, list[Tensor]] = {"plain": [], "temperature": []}
    rights = []
    for k, name in enumerate(tickets.names):
        index = loaded.partition.members["test"][:, k].nonzero()[:, 0]
        outputs = predict(tickets.bake(name), loaded.data, "test", index)
        if (own_SC := allowed(tickets.metadata, [name] * len(index))) is not None:
            outputs = mask_logits(outputs, own_SC)
        rights.append(loaded.data.test.y[index].long())
        parts["plain"].append(outputs.double().softmax(1))
        parts["temperature"].append(made.classes(outputs, k))
    truth = torch.cat(rights)
    for reading, found in parts.items():
        p = torch.cat(found)
        right = p.argmax(1) == truth
        each = [float(part.double().mean()) for part in right.split([len(mine) for mine in rights])]
        metrics = {
            "accuracy": sum(each) / len(each),  # subsets count alike, as in `Classification`
            "ece": calibration_error(p.max(1).values, right),
            "brier": brier(p, truth),
        }
        values += rows({"reading": reading}, metrics)
    return values, made
