"""What calibration and coupling make of class tickets, read as the single mask is. S samples, K tickets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from tombola.lab.evaluation.loaded_run import LoadedRun
from tombola.lab.evaluation.tables import Values, rows
from tombola.methods.pipeline import predict
from tombola.objectives import SubsetSoftmax
from tombola.objectives.classification import allowed, mask_logits
from tombola.objectives.one_vs_rest import decisions
from tombola.tickets.calibration import (
    Calibration,
    brier,
    calibration_error,
    estimated,
    log_odds,
    own_scores,
    precision_at_recall,
    reliability,
    shifted,
    threshold,
)
from tombola.tickets.calibration.coupling import COUPLINGS
from tombola.tickets.calibration.maps import KINDS
from tombola.tickets.model import TicketModel

SPLITS = ("validation", "test")
RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MISS = 0.1


def scores(loaded: LoadedRun, tickets: TicketModel) -> dict[str, Tensor]:
    """The score matrix of both held-out splits: output k of ticket k, or the log-odds of one softmax."""
    if len(tickets.names) > 1:
        return {split: own_scores(tickets, loaded.data, split) for split in SPLITS}
    network, K, read = tickets.bake(tickets.names[0]), len(loaded.partition), loaded.objective.read
    outputs = {split: predict(network, loaded.data, split, read=read)[:, :K] for split in SPLITS}
    return {split: SubsetSoftmax.log_odds(logits_SK) for split, logits_SK in outputs.items()}


def measure(score: Mapping[str, Tensor], members: Mapping[str, Tensor], single_recall: float) -> Values:
    """All readings of one score matrix ``[S, K]`` by split; whatever is chosen is chosen on validation data.

    Precisions are compared at the macro recall of the single mask's argmax on validation data.
    """
    plain = _Held(*(score[split].double() for split in SPLITS), *(members[split] for split in SPLITS))
    calibrated = [row for method in KINDS for row in _calibrated(method, plain, single_recall)]
    coupled = [row for kind in COUPLINGS for row in _coupled(kind, plain, single_recall)]
    return [*_uncalibrated(plain), *calibrated, *coupled]


class _Held(NamedTuple):
    """Scores of both held-out splits ``[S, K]``, float64, and who belongs to what, boolean ``[S, K]``."""

    val: Tensor
    test: Tensor
    val_true: Tensor
    test_true: Tensor

    def fit(self, made: Calibration) -> Calibration:
        """A calibration, fitted on validation scores."""
        return made.fit_scores(self.val, self.val_true, tuple(map(str, range(self.test.shape[1]))))


def _uncalibrated(s: _Held) -> Values:
    """Scores as they are, and with the prior that validation has added or estimated."""
    moved, p = shifted(s.test, s.val_true.double().mean(0)), torch.sigmoid(s.test)
    by_prior = {**macro(moved >= 0, s.test_true), **_probabilities(torch.sigmoid(moved), s.test_true)}
    return [
        *rows({"reading": "probability one half"}, macro(s.test > 0, s.test_true)),
        *rows({"reading": "prior shift"}, by_prior),
        *rows({"reading": "plain scores"}, {**areas(s.test, s.test_true), **_probabilities(p, s.test_true)}),
        *rows({"reading": "prior by EM"}, _error_of_prior(p, s.test_true)),
        *_bars("plain scores", p, s.test_true),
        *_curve("plain scores", s.test, s.test_true),
    ]


def _calibrated(method: str, s: _Held, single_recall: float) -> Values:
    """Each ticket's yes or no by calibrated probabilities."""
    made = s.fit(Calibration(method, "argmax", "f1"))
    p = made.probability(s.test)
    found = {**_probabilities(p, s.test_true), **macro(made.yes(s.test), s.test_true)}
    values = rows({"reading": method}, found)
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


def _coupled(kind: str, s: _Held, single_recall: float) -> Values:
    """One answer among all classes from the K scores of class tickets, and sets that miss at most `MISS`."""
    made = s.fit(Calibration("platt", kind, "f1"))
    p, truth, K = made.coupled(s.test), s.test_true.int().argmax(1), s.test.shape[1]
    named = s.fit(Calibration("platt", kind, "f1", MISS)).sets(s.test)
    missed = 1 - torch.stack([named[truth == k, k].double().mean() for k in range(K)])
    found = _of_answers(p, truth) | macro(_one_hot(p), s.test_true) | areas(p, s.test_true)
    sets = {"set_size": named.sum(1).double().mean(), "missed": missed.mean(), "missed_most": missed.max()}
    values = rows({"reading": f"coupled: {kind}"}, {**found, **sets})
    if kind != "vector":
        return values
    recalled = _at_recall(made.coupled(s.val), s.val_true, p, single_recall)
    return [
        *values,
        *rows({"reading": "coupled: vector, at the single mask's recall"}, macro(recalled, s.test_true)),
        *_curve("coupled: vector", p, s.test_true),
    ]


def within(loaded: LoadedRun, tickets: TicketModel) -> tuple[Values, Calibration]:
    """Classes within a given context: probabilities of its own ticket before and after its temperature."""
    made = Calibration().fit(tickets, loaded.data, loaded.partition)
    plain, warmed, truths = [], [], []
    for k, name in enumerate(tickets.names):
        index = loaded.partition.members["test"][:, k].nonzero()[:, 0]
        outputs = predict(tickets.bake(name), loaded.data, "test", index, read=loaded.objective.read)
        if (own_SC := allowed(tickets.metadata, [name] * len(index))) is not None:
            outputs = mask_logits(outputs, own_SC)
        truths.append(loaded.data.test.y[index].long())
        plain.append(outputs.double().softmax(1))
        warmed.append(made.classes(outputs, k))
    values: Values = []
    for reading, found in (("plain", plain), ("temperature", warmed)):
        each = [float((p.argmax(1) == y).double().mean()) for p, y in zip(found, truths, strict=True)]
        metrics = _of_answers(torch.cat(found), torch.cat(truths))
        metrics["accuracy"] = sum(each) / len(each)  # subsets count alike, as in `Classification`
        values += rows({"reading": reading}, metrics)
    return values, made


# -- metrics ----------------------------------------------------------------------------------------------


def macro(yes_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    """Means over tickets of balanced accuracy, precision and recall."""
    each = [decisions(*pair) for pair in zip(true_SK.numpy().T, yes_SK.numpy().T, strict=True)]
    return {name: float(np.mean([found[name] for found in each])) for name in each[0]}


def areas(score_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    """Means over tickets of ROC AUC and average precision."""
    pair = true_SK.numpy(), score_SK.numpy()
    return {"auc": float(roc_auc_score(*pair)), "average_precision": float(average_precision_score(*pair))}


def single_recall(score_SK: Tensor, true_SK: Tensor) -> float:
    """The macro recall of the argmax of a score matrix."""
    return macro(_one_hot(score_SK), true_SK)["recall"]


def _one_hot(score_SK: Tensor) -> Tensor:
    """The best of each row, boolean ``[S, K]``."""
    return torch.nn.functional.one_hot(score_SK.argmax(1), score_SK.shape[1]).bool()


def _of_answers(p_SC: Tensor, truth_S: Tensor) -> dict[str, float]:
    """Accuracy of the likeliest class, and how good the probabilities are."""
    right = p_SC.argmax(1) == truth_S
    error = calibration_error(p_SC.max(1).values, right)
    return {"accuracy": float(right.double().mean()), "ece": error, "brier": brier(p_SC, truth_S)}


def _of_tickets(measure: Callable[..., float], p_SK: Tensor, true_SK: Tensor, *more: float) -> float:
    """The mean over tickets of a measure of each one's yes or no."""
    pairs = zip(p_SK.unbind(1), true_SK.unbind(1), strict=True)
    return float(np.mean([measure(p_S, true_S, *more) for p_S, true_S in pairs]))


def _probabilities(p_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    error = _of_tickets(calibration_error, p_SK, true_SK)
    return {"ece": error, "brier": _of_tickets(brier, p_SK, true_SK)}


def _error_of_prior(p_SK: Tensor, true_SK: Tensor) -> dict[str, float]:
    """How far the prior that EM finds in probabilities of a balanced one is off, in the mean of tickets."""
    return {"error_of_prior": float((estimated(p_SK) - true_SK.double().mean(0)).abs().mean())}


def _at_recall(val_SK: Tensor, val_true: Tensor, test_SK: Tensor, recall: float) -> Tensor:
    """Decisions on the test split at thresholds that have this recall on validation data."""
    pairs = zip(val_SK.unbind(1), val_true.unbind(1), strict=True)
    return test_SK >= torch.tensor([threshold(f"recall={recall:.6f}", *pair) for pair in pairs])


def _curve(reading: str, score_SK: Tensor, true_SK: Tensor) -> Values:
    """The precision-recall curve, mean over tickets, as highest precisions from given recalls on."""
    values: Values = []
    for recall in RECALLS:
        found = {"precision_at_recall": _of_tickets(precision_at_recall, score_SK, true_SK, recall)}
        values += rows({"reading": reading, "recall": recall}, found)
    return values


def _bars(reading: str, p_SK: Tensor, true_SK: Tensor) -> Values:
    """The reliability diagram of all tickets together."""
    values: Values = []
    for b in reliability(p_SK.flatten(), true_SK.flatten(), 10):
        what = {"reading": reading, "bin": round(b.upper, 6)}
        values += rows(what, {"predicted": b.predicted, "observed": b.observed, "count": b.count})
    return values
