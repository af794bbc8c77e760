"""Probabilities, priors, thresholds and couplings, against hand-computed values and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, fbeta_score, precision_score, recall_score

from tombola._utils.errors import CalibrationError, TombolaError
from tombola._utils.rng import generator
from tombola.data import partition as partitions
from tombola.masks.prunable import scope
from tombola.tickets.calibration import (
    Calibration,
    brier,
    calibration_error,
    coupling,
    estimated,
    log_odds,
    maps,
    own_scores,
    precision_at_recall,
    reliability,
    shifted,
    threshold,
)
from tombola.tickets.calibration.coupling import conformal
from tombola.tickets.model import TicketModel, load
from tombola.tickets.routing import PrototypeRouter
from tombola.training.norm import statistics_names

NAMES = ("top", "middle", "bottom")


def drawn(count, prior, slope=1.0, bias=0.0, seed=0):
    """Log-odds and truths of a world where they are exact at ``prior``, then bent: s = (l - bias) / slope."""
    g = generator(seed, "drawn")
    logits = 2.5 * torch.randn(count, generator=g).double() + float(log_odds(torch.tensor(prior)))
    truth = torch.rand(count, generator=g).double() < torch.sigmoid(logits)
    return (logits - bias) / slope, truth


# -- priors ---------------------------------------------------------------------------------------------


def test_a_shift_to_one_in_ten_is_bayes_rule():
    p = torch.tensor([[0.2], [0.5], [0.9]], dtype=torch.double)
    found = torch.sigmoid(shifted(log_odds(p), torch.tensor([0.1])))
    expected = p * 0.1 / 0.5 / (p * 0.1 / 0.5 + (1 - p) * 0.9 / 0.5)
    torch.testing.assert_close(found, expected)
    assert float(found[2]) == pytest.approx(0.5)  # so the threshold of a balanced ticket is 0.9


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(-20, 20))
def test_shifting_there_and_back_is_nothing(a, b, logit):
    logits = torch.tensor([[logit]], dtype=torch.double)
    a_K, b_K = torch.tensor([a]), torch.tensor([b])
    torch.testing.assert_close(shifted(shifted(logits, b_K, a_K), a_K, b_K), logits, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("prior", [0.05, 0.3, 0.8])
def test_the_prior_of_unlabelled_samples_is_found(prior):
    g = generator(1, "prior")
    yes = torch.rand(20_000, generator=g) < prior
    x = torch.randn(20_000, generator=g) + 1.5 * yes
    p = torch.sigmoid(1.5 * (x - 0.75))  # exact where both are as frequent
    found = estimated(torch.stack([p, p], 1))
    assert found.tolist() == pytest.approx([prior, prior], abs=0.02)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1])
def test_a_prior_that_is_none_is_refused(prior):
    with pytest.raises(CalibrationError, match="a prior lies between 0 and 1"):
        shifted(torch.zeros(1, 1), torch.tensor([prior]))


# -- one ticket -----------------------------------------------------------------------------------------


def test_platt_undoes_a_bend_and_is_logistic_regression():
    s, truth = drawn(20_000, 0.3, slope=2.0, bias=-1.0)
    state = maps.fit("platt", s, truth)
    assert float(state["a"]) == pytest.approx(2.0, rel=0.05)
    assert float(state["b"]) == pytest.approx(-1.0, abs=0.06)
    found = LogisticRegression(C=1e9, tol=1e-10).fit(s[:, None].numpy(), truth.numpy())
    assert float(state["a"]) == pytest.approx(float(found.coef_[0, 0]), rel=1e-3)


def test_temperature_knows_the_shift_of_the_prior():
    g = generator(2, "temperature")
    truth = torch.arange(30_000) % 10 == 0
    x = torch.randn(30_000, generator=g).double() + 2 * truth
    balanced = 2 * (x - 1)  # exact log-odds where both are as frequent
    state = maps.fit("temperature", 3 * balanced, truth)
    assert float(state["a"]) == pytest.approx(1 / 3, rel=0.05)
    assert float(state["b"]) == pytest.approx(float(torch.tensor(1 / 9).log()), abs=1e-6)


def test_isotonic_is_monotone_and_that_of_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    s, truth = drawn(800, 0.4)
    state = maps.fit("isotonic", s, truth)
    grid = torch.linspace(-20, 20, 999).double()
    p = maps.apply("isotonic", state, grid)
    oracle = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(s.numpy(), truth.double().numpy())
    np.testing.assert_allclose(p.numpy(), oracle.predict(grid.numpy()), atol=1e-9)
    assert bool((p.diff() >= 0).all())


@pytest.mark.parametrize("kind", maps.KINDS)
def test_every_kind_lowers_the_calibration_error_of_bent_scores(kind):
    s, truth = drawn(4000, 0.3, slope=0.3)
    held, judged = slice(0, 2000), slice(2000, 4000)
    before = calibration_error(torch.sigmoid(s[judged]), truth[judged])
    state = maps.fit(kind, s[held], truth[held])
    after = calibration_error(maps.apply(kind, state, s[judged]), truth[judged])
    assert after < 0.6 * before


@pytest.mark.parametrize("kind", maps.KINDS)
def test_separable_scores_stay_finite(kind):
    s, truth = torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([False, False, True, True])
    p = maps.apply(kind, maps.fit(kind, s, truth), torch.tensor([-50.0, 0.0, 50.0]))
    assert bool(torch.isfinite(p).all())
    assert p.tolist() == sorted(p.tolist())


@pytest.mark.parametrize(
    ("kind", "s", "truth", "words"),
    [
        ("plat", [0.0, 1.0], [True, False], "did you mean 'platt'"),
        ("platt", [0.0, float("nan")], [True, False], "not finite"),
        ("isotonic", [0.0, 1.0], [True, True], "2 positives and 0 negatives"),
    ],
)
def test_what_cannot_be_calibrated_is_named(kind, s, truth, words):
    with pytest.raises(CalibrationError, match=words):
        maps.fit(kind, torch.tensor(s), torch.tensor(truth))


# -- measures and thresholds ----------------------------------------------------------------------------


def test_brier_score_is_that_of_scikit_learn_and_of_the_definition():
    g = generator(3, "brier")
    p, truth = torch.rand(50, generator=g), torch.rand(50, generator=g) < 0.4
    assert brier(p, truth) == pytest.approx(brier_score_loss(truth.numpy(), p.double().numpy()))
    several = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    assert brier(several, torch.tensor([0, 1])) == pytest.approx(
        (0.09 + 0.04 + 0.01 + 0.01 + 0.81 + 0.64) / 2
    )


def test_reliability_and_its_error_by_hand():
    p = torch.tensor([0.0, 0.08, 0.15, 0.95, 1.0])
    bins = reliability(p, torch.tensor([0, 0, 1, 1, 1]), bins=10)
    assert [(b.lower, b.count, round(b.observed, 3)) for b in bins] == [
        (0.0, 2, 0.0),
        (0.1, 1, 1.0),
        (0.9, 2, 1.0),
    ]
    expected = (2 * 0.04 + 1 * 0.85 + 2 * 0.025) / 5
    assert calibration_error(p, torch.tensor([0, 0, 1, 1, 1]), bins=10) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("p", [torch.tensor([1.2]), torch.tensor([]), torch.tensor([float("nan")])])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(CalibrationError, match="probabilities from 0 to 1"):
        brier(p, torch.zeros(len(p)))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=40))
def test_thresholds_keep_what_they_promise(pairs):
    p, truth = torch.tensor([a / 20 for a, _ in pairs]), torch.tensor([b for _, b in pairs])
    truth[0] = True
    for wanted in (0.3, 0.8, 1.0):
        yes = p.double() >= threshold(f"recall={wanted}", p, truth)
        assert recall_score(truth, yes) >= wanted - 1e-12
        t = threshold(f"precision={wanted}", p, truth)
        reachable = max(precision_score(truth, p.double() >= v, zero_division=0) for v in p.double())
        assert precision_score(truth, p.double() >= t) >= min(wanted, reachable) - 1e-9
    best = max(fbeta_score(truth, p.double() >= v, beta=2) for v in p.double())
    assert fbeta_score(truth, p.double() >= threshold("f2", p, truth), beta=2) == pytest.approx(best)


@pytest.mark.parametrize("target", ["f", "recall=2", "precision=0", "accuracy", "f0"])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(CalibrationError, match="a threshold is for"):
        threshold(target, torch.tensor([0.1, 0.9]), torch.tensor([False, True]))


def test_precision_at_recall_by_hand():
    s, truth = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, True])
    assert precision_at_recall(s, truth, 0.3) == 1.0
    assert precision_at_recall(s, truth, 0.5) == pytest.approx(0.75)


# -- coupling -------------------------------------------------------------------------------------------


def loaded(count=3000, K=4, seed=4):
    """Scores of K tickets on scales of their own, with a common part that a matrix can take out."""
    g = generator(seed, "coupling")
    truth = torch.randint(K, (count,), generator=g)
    clean = torch.randn(count, K, generator=g) + 2 * torch.nn.functional.one_hot(truth, K)
    return clean * torch.tensor([1.0, 4.0, 0.3, 2.0]) + torch.tensor([0.0, 3.0, -1.0, 5.0]), truth


def test_vector_scaling_makes_tickets_comparable():
    s, truth = loaded()
    held, judged = slice(0, 1500), slice(1500, 3000)
    right = {}
    for kind in ("argmax", "vector", "matrix"):
        state = coupling.fit(kind, s[held], truth[held])
        p = coupling.apply(kind, state, s[judged], torch.sigmoid(s[judged].double()))
        torch.testing.assert_close(p.sum(1), torch.ones(1500, dtype=torch.double))
        right[kind] = float((p.argmax(1) == truth[judged]).double().mean())
    assert right["vector"] > right["argmax"] + 0.15
    assert right["matrix"] == pytest.approx(right["vector"], abs=0.02)


def test_vector_scaling_counts_2k_numbers_and_matrix_k_squared_plus_k():
    s, truth = loaded(400)
    numbers = {k: sum(t.numel() for t in coupling.fit(k, s, truth).values()) for k in coupling.COUPLINGS}
    assert numbers == {"argmax": 0, "calibrated": 0, "vector": 8, "matrix": 20}


def test_coupling_does_not_change_with_the_units_of_the_scores():
    s, truth = loaded(500)
    one, other = coupling.fit("matrix", s, truth), coupling.fit("matrix", 100 * s - 7, truth)
    p = [coupling.apply("matrix", *pair, torch.zeros(0)) for pair in ((one, s), (other, 100 * s - 7))]
    torch.testing.assert_close(p[0], p[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("miss", [0.05, 0.2])
def test_conformal_sets_cover_every_class(miss):
    s, truth = loaded(4000)
    p = s.double().softmax(1)  # badly calibrated on purpose
    held, judged = slice(0, 2000), slice(2000, 4000)
    named = 1 - p[judged] <= conformal(p[held], truth[held], miss)
    for k in range(4):
        mine = truth[judged] == k
        assert float(named[mine, k].double().mean()) > 1 - miss - 0.03


def test_fitted_sets_miss_no_more_than_was_asked_for():
    missed = []
    for seed in range(20):  # few samples and many numbers to fit: where fitting and judging on the same shows
        s, truth = loaded(300 + 2000, K=4, seed=seed)
        members = torch.nn.functional.one_hot(truth, 4).bool()
        calibration = Calibration(method="isotonic", coupling="matrix", miss=0.1)
        sets = calibration.fit_scores(s[:300], members[:300], tuple("abcd")).sets(s[300:])
        missed.append(1 - float(sets[members[300:]].double().mean()))
    assert sum(missed) / len(missed) < 0.105


def test_sets_need_another_answer():
    with pytest.raises(CalibrationError, match="there is one ticket: leave out miss"):
        Calibration(miss=0.1).fit_scores(torch.randn(20, 1), torch.rand(20, 1) < 0.5, ("a",))


def test_a_class_with_few_samples_is_never_excluded():
    limits = conformal(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]), 0.1)
    assert limits.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "K", "truth", "words"),
    [
        ("vectr", 2, [0, 1], "did you mean 'vector'"),
        ("vector", 1, [0, 0], "nothing to be coupled with"),
        ("matrix", 2, [0, 0], "class number 1 has no held-out samples"),
    ],
)
def test_what_cannot_be_coupled_is_named(kind, K, truth, words):
    with pytest.raises(CalibrationError, match=words):
        coupling.fit(kind, torch.zeros(2, K), torch.tensor(truth))


# -- tickets --------------------------------------------------------------------------------------------


@pytest.fixture
def make(convnet, random_masks):
    def tickets(objective, names=NAMES):
        state = convnet.state_dict()
        own = {name: {n: state[n] for n in statistics_names(convnet)} for name in names}
        masks = random_masks(scope(convnet), names, density=0.8)
        return TicketModel(convnet, masks, own, {"objective": objective}).eval()

    return tickets


@pytest.mark.parametrize("method", maps.KINDS)
@pytest.mark.parametrize("how", coupling.COUPLINGS)
def test_a_calibration_comes_back_from_the_ticket_file(method, how, make, images, by_class, tmp_path):
    tickets, x = make("OneVsRest"), images.test.x
    tickets.calibration = Calibration(method, how, "recall=0.8", miss=0.2).fit(tickets, images, by_class)
    tickets.save(tmp_path / "a.tickets")
    again = load(tmp_path / "a.tickets", tickets.backbone)
    first, second = tickets.predict(x), again.predict(x)
    assert torch.equal(first.probability_B, second.probability_B)
    assert first.why == second.why
    score = own_scores(tickets, images, "test")
    assert torch.equal(tickets.calibration.sets(score), again.calibration.sets(score))
    again.save(tmp_path / "b.tickets")
    assert (tmp_path / "a.tickets").read_bytes() == (tmp_path / "b.tickets").read_bytes()


def test_one_vs_rest_tickets_are_all_asked_and_coupled(make, images, by_class):
    tickets, x = make("OneVsRest"), images.test.x[:9]
    plain = tickets.predict(x)
    score = torch.stack([tickets(x, ticket=n)[:, k] for k, n in enumerate(NAMES)], 1)
    assert torch.equal(plain.answer_B, score.argmax(1))
    assert plain.tickets == [NAMES[k] for k in score.argmax(1).tolist()]
    assert "not calibrated" in plain.why[0]
    tickets.calibration = Calibration().fit(tickets, images, by_class)
    found = tickets.predict(x)
    assert torch.equal(found.probability_B, tickets.calibration.coupled(score).max(1).values)
    assert "coupled by vector" in found.why[0]


def test_one_ticket_against_the_rest_says_yes_or_no_at_its_threshold(make, images, by_class):
    tickets, x = make("OneVsRest"), images.test.x
    tickets.calibration = Calibration(target="recall=0.9").fit(tickets, images, by_class)
    found = tickets.predict(x, ticket="middle")
    p = tickets.calibration.probability(own_scores(tickets, images, "test"))[:, 1]
    limit = float(tickets.calibration.tensors["threshold_K"][1])
    assert torch.equal(found.answer_B.bool(), p >= limit)
    assert set(found.tickets) == {"middle"}
    assert bool((found.confidence_B >= min(limit, 1 - limit) - 1e-9).all())


def test_the_prior_of_the_deployed_world_moves_probabilities_and_no_ranking(make, images, by_class):
    tickets = make("OneVsRest")
    made = Calibration().fit(tickets, images, by_class)
    score = own_scores(tickets, images, "test")
    here, rare = made.probability(score), made.probability(score, torch.full((3,), 0.01))
    assert bool((rare < here).all())
    assert torch.equal(rare.argsort(0), here.argsort(0))
    torch.testing.assert_close(made.probability(score, made.tensors["prior_K"]), here)


def test_classes_within_a_context_get_a_temperature_and_the_routers_confidence(make, images):
    part = partitions.by_column(images, "site")
    tickets = make("Classification", part.names)
    tickets.calibration = Calibration().fit(tickets, images, part)
    tickets.router = PrototypeRouter().fit(tickets, images, part)
    x = images.test.x[:20]
    found, routed = tickets.predict(x), tickets.route(x)
    assert found.tickets == routed.names
    for i, name in enumerate(found.tickets):
        k = part.names.index(name)
        logits = tickets(x[i : i + 1], ticket=name).double() / tickets.calibration.tensors["temperature_K"][k]
        torch.testing.assert_close(found.probability_B[i], logits.softmax(1).max(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.confidence_B, found.probability_B * routed.confidence_B)
    assert tickets.predict(x, ticket="north").why[0] == "named"


def test_tickets_answer_with_the_classes_of_their_subset(make, images):
    part = partitions.by_column(images, "site")
    tickets, x = make("Classification", part.names), images.test.x[:30]
    tickets.metadata["classes"] = {"north": [0, 2], "south": [1, 2]}
    with torch.no_grad():
        tickets.backbone[9].bias += torch.tensor([50.0, 100.0, 0.0])  # class 1, to whoever may say it
    found = tickets.predict(x, ticket=["north", "south"] * 15)
    assert found.answer_B.tolist() == [0, 1] * 15
    assert bool(found.outputs.isfinite().all())  # those stay what the network gives
    tickets.calibration = Calibration().fit(tickets, images, part)
    assert tickets.predict(x, ticket="north").answer_B.unique().tolist() == [0]
    tickets.router = PrototypeRouter(mix=2).fit(tickets, images, part)
    both, routed = tickets.follow(x, tickets.route(x)), tickets.route(x)
    shares = routed.scores_BK.softmax(1).float()
    torch.testing.assert_close(both.exp(), torch.stack([shares[:, 0], shares[:, 1], 0 * shares[:, 0]], 1))
    calibrated, tickets.calibration = tickets.calibration, None
    plain = tickets.predict(x)
    assert bool((plain.answer_B == shares.argmax(1)).all())
    assert plain.tickets == [part.names[k] for k in plain.answer_B]  # who can give that answer
    torch.testing.assert_close(plain.probability_B.float(), shares.max(1).values)
    torch.testing.assert_close(plain.confidence_B.float(), routed.usual_B * shares.max(1).values)
    tickets.calibration = calibrated
    p = torch.zeros(len(x), 3, dtype=torch.double)
    for k, (name, own) in enumerate(tickets.metadata["classes"].items()):  # each by its own temperature
        p[:, own] += shares[:, k, None] * calibrated.classes(tickets(x, ticket=name).detach()[:, own], k)
    torch.testing.assert_close(tickets.predict(x).probability_B, p.max(1).values)


def test_mixed_answers_of_different_classes_have_gradients(make, images):
    tickets = make("Classification").train()
    tickets.metadata["classes"] = {name: [k] for k, name in enumerate(tickets.names)}
    part = partitions.by_label(images, NAMES)
    tickets.router = PrototypeRouter(mix=2).fit(tickets, images, part)
    tickets(images.test.x[:9]).logsumexp(1).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in tickets.parameters() if p.grad is not None)


def test_temperature_lowers_the_loss_of_overconfident_tickets(make, images):
    part = partitions.by_column(images, "site")
    tickets = make("Classification", part.names)
    with torch.no_grad():
        tickets.backbone[9].weight.mul_(40)
    made = Calibration().fit(tickets, images, part)
    assert float(made.tensors["temperature_K"].min()) > 2


def test_regression_tickets_are_answered_without_probabilities(make, images):
    tickets = make("Reconstruction")
    found = tickets.predict(images.test.x[:4], ticket=["top", "top", "bottom", "middle"])
    assert found.answer_B is None
    assert found.tickets == ["top", "top", "bottom", "middle"]
    assert found.confidence_B.tolist() == [1.0] * 4
    with pytest.raises(CalibrationError, match="Reconstruction tickets give no probabilities"):
        Calibration().fit(tickets, images, partitions.by_label(images, NAMES))


def test_a_calibration_of_other_tickets_is_not_saved(make, images, by_class, tmp_path):
    tickets = make("OneVsRest")
    tickets.calibration = Calibration().fit(tickets, images, by_class)
    first = tickets.names[0]
    tickets[first] = tickets[first] & (torch.arange(tickets.scope.size) >= 9)
    with pytest.raises(TombolaError, match="calibration was fitted on other tickets"):
        tickets.save(tmp_path / "x.tickets")


def test_wrong_uses_of_a_calibration_are_named(make, images, by_class):
    tickets = make("OneVsRest")
    score = torch.zeros(2, 3)
    with pytest.raises(CalibrationError, match="is of nothing yet"):
        Calibration().probability(score)
    made = Calibration().fit(tickets, images, by_class)
    with pytest.raises(CalibrationError, match="no sets were fitted"):
        made.sets(score)
    with pytest.raises(CalibrationError, match="is of one-vs-rest tickets, not of classes"):
        made.classes(score, 0)
    with pytest.raises(CalibrationError, match="the partition names"):
        Calibration().fit(tickets, images, partitions.by_column(images, "site"))
    with pytest.raises(TombolaError, match="asked one by one, or all"):
        tickets.predict(images.test.x[:2], ticket=["top", "middle"])


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("method", "bar", "there is no calibration 'bar'"),
        ("coupling", "foo", "there is no coupling 'foo'"),
        ("target", "foo", "a threshold is for half"),
        ("miss", 1.0, "miss is a share"),
    ],
)
def test_an_option_that_there_is_not_is_refused_at_once(option, value, words):
    with pytest.raises(CalibrationError, match=words):
        Calibration(**{option: value})
