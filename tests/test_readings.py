"""Two readings of one score matrix, against scikit-learn and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tombola._utils.errors import PartitionError
from tombola.data.partition import Partition
from tombola.objectives.objective import Metric
from tombola.objectives.one_vs_rest import accuracies, best_threshold, decisions, macro, over_subsets


def example(seed=0, samples=90, K=3):
    """Scores that tell a little about disjoint subsets."""
    g = torch.Generator().manual_seed(seed)
    scores, members = {}, {}
    for split in ("validation", "test"):
        truth = torch.arange(samples) % K
        members[split] = torch.nn.functional.one_hot(truth, K).bool()
        noise = torch.randn(samples, K, generator=g)
        scores[split] = noise + 1.2 * members[split] + torch.tensor([0.0, 1.0, -2.0])
    return scores, Partition(("a", "b", "c"), members)


def value(metrics, name, reading, ticket=""):
    (found,) = [m.value for m in metrics if (m.name, m.reading, m.ticket) == (name, reading, ticket)]
    return found


def test_decisions_by_hand():
    true = np.array([1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    yes = np.array([1, 1, 0, 1, 0, 0, 0, 0], dtype=bool)
    found = decisions(true, yes)
    assert found == pytest.approx(
        {"balanced_accuracy": (2 / 3 + 4 / 5) / 2, "precision": 2 / 3, "recall": 2 / 3}
    )
    assert decisions(true, np.zeros(8, dtype=bool)) == {
        "balanced_accuracy": 0.5,
        "precision": 0.0,
        "recall": 0.0,
    }


bools = arrays(bool, 12).filter(lambda a: 0 < a.sum() < 12)


@given(bools, arrays(bool, 12))
@settings(max_examples=60, deadline=None)
def test_decisions_equal_scikit_learn(true, yes):
    found = decisions(true, yes)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, yes))
    assert found["precision"] == pytest.approx(sk.precision_score(true, yes, zero_division=0))
    assert found["recall"] == pytest.approx(sk.recall_score(true, yes))


@given(bools, arrays(np.float32, 12, elements=st.floats(-4, 4, width=32)))
@settings(max_examples=120, deadline=None)
def test_no_threshold_is_better_than_the_best(true, scores):
    scores = scores.astype(np.float64)
    found = decisions(true, scores >= best_threshold(true, scores))["balanced_accuracy"]
    every = [decisions(true, scores >= t)["balanced_accuracy"] for t in [*scores, np.inf]]
    assert found == pytest.approx(max(every))


def test_the_threshold_lies_between_two_scores():
    true, scores = np.array([0, 0, 1, 1], dtype=bool), np.array([-1.0, 0.0, 3.0, 9.0])
    assert best_threshold(true, scores) == 1.5


def test_areas_and_the_papers_decisions_are_those_of_scikit_learn():
    scores, partition = example()
    yes = scores["test"] > 0
    found = over_subsets(scores, yes, partition)
    for k, name in enumerate(partition.names):
        true, s = partition.members["test"][:, k].numpy(), scores["test"][:, k].numpy()
        assert value(found, "auc", "like_for_like", name) == pytest.approx(sk.roc_auc_score(true, s))
        expected = sk.average_precision_score(true, s)
        assert value(found, "average_precision", "like_for_like", name) == pytest.approx(expected)
        expected = sk.balanced_accuracy_score(true, yes[:, k].numpy())
        assert value(found, "balanced_accuracy", "paper", name) == pytest.approx(expected)


def test_means_are_over_tickets():
    scores, partition = example()
    found = over_subsets(scores, scores["test"] > 0, partition)
    for name, reading in (("auc", "like_for_like"), ("recall", "paper"), ("precision", "like_for_like")):
        each = [value(found, name, reading, ticket) for ticket in partition.names]
        assert value(found, name, reading) == pytest.approx(np.mean(each))
    assert macro([Metric("m", 1.0, "r", "a"), Metric("m", 2.0, "r", "b")]) == [Metric("m", 1.5, "r")]


def test_thresholds_are_chosen_on_validation_alone():
    scores, partition = example()
    found = over_subsets(scores, scores["test"] > 0, partition)
    for k, name in enumerate(partition.names):
        val = scores["validation"][:, k].double().numpy()
        threshold = best_threshold(partition.members["validation"][:, k].numpy(), val)
        yes = scores["test"][:, k].double().numpy() >= threshold
        expected = decisions(partition.members["test"][:, k].numpy(), yes)
        for metric, v in expected.items():
            assert value(found, metric, "like_for_like", name) == v
    # a shift of the test scores alone moves the decisions: no threshold follows it
    moved = over_subsets({**scores, "test": scores["test"] - 99}, scores["test"] > 0, partition)
    assert all(value(moved, "recall", "like_for_like", name) == 0 for name in partition.names)
    assert value(moved, "auc", "like_for_like") == pytest.approx(value(found, "auc", "like_for_like"))
    # and one of both splits together does not
    both = {split: s - 99 for split, s in scores.items()}
    again = over_subsets(both, scores["test"] > 0, partition)
    assert value(again, "recall", "like_for_like") == pytest.approx(value(found, "recall", "like_for_like"))


def test_the_coupling_is_fitted_on_validation_alone():
    scores, partition = example()
    val, test = (scores[s].double().numpy() for s in ("validation", "test"))
    val_true, test_true = (partition.members[s].numpy() for s in ("validation", "test"))
    found = {m.name: m.value for m in accuracies(val, val_true, test, test_true)}
    scaler = StandardScaler().fit(val)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(val), val_true.argmax(1))
    expected = (model.predict(scaler.transform(test)) == test_true.argmax(1)).mean()
    assert found["accuracy"] == pytest.approx(expected)
    assert found["accuracy_argmax"] == pytest.approx((test.argmax(1) == test_true.argmax(1)).mean())
    assert found["accuracy"] > found["accuracy_argmax"]  # it corrects the offsets of the example
    one = {m.name: m.value for m in accuracies(val, val_true, test[:1], test_true[:1])}
    assert one["accuracy"] == float(model.predict(scaler.transform(test[:1]))[0] == test_true[:1].argmax())


def test_samples_of_no_or_several_subsets_have_no_multi_class_answer():
    scores, partition = example()
    val, test = (scores[s].double().numpy() for s in ("validation", "test"))
    val_true, test_true = (partition.members[s].numpy().copy() for s in ("validation", "test"))
    expected = accuracies(val, val_true, test[4:], test_true[4:])
    test_true[:2], test_true[2:4] = False, True
    assert accuracies(val, val_true, test, test_true) == expected
    test_true[:] = True
    assert accuracies(val, val_true, test, test_true) == []


def test_a_subset_without_a_rest_is_an_error():
    scores, partition = example()
    members = {s: m.clone() for s, m in partition.members.items()}
    members["test"][:, 1] = True
    with pytest.raises(PartitionError, match="subset 'b' holds all samples of the test split"):
        over_subsets(scores, scores["test"] > 0, Partition(partition.names, members))
