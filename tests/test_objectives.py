"""What a ticket is trained and judged by."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tombola._utils.errors import DataError, PartitionError, UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data, Split, Stream
from tombola.data.partition import by_column, by_label, by_rule
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.methods.pipeline import predict
from tombola.objectives import Classification, InSubset, Metric, MultiLabel, OneVsRest, SubsetSoftmax
from tombola.objectives.objective import mean_and_each
from tombola.settings import TrainConfig
from tombola.training.joint import train_jointly
from tombola.training.model import FunctionalModel

NO_INPUTS = torch.empty(0)


def epoch(objective, partition, k, seed=0):
    return objective.epoch(partition, k, generator(seed, "epoch"))


# -- one against the rest -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 6, 8, 50])
def test_every_batch_of_even_size_is_exactly_balanced(images, by_class, batch):
    objective = OneVsRest()
    for k in range(3):
        stream = Stream(lambda g, k=k: objective.epoch(by_class, k, g), batch, 0, k)
        for i in range(12):
            targets = objective.targets(images, by_class, stream[i], k)
            assert targets.dtype == torch.float32
            assert int(targets.sum()) == batch // 2


def test_an_epoch_holds_the_subset_once_and_negatives_from_the_rest(by_class):
    inside = by_class.members["train"][:, 1]
    found = epoch(OneVsRest(), by_class, 1)
    assert len(found) == OneVsRest().epoch_size(by_class, 1) == 2 * int(inside.sum())
    assert sorted(found[inside[found]].tolist()) == inside.nonzero()[:, 0].tolist()
    negatives = found[~inside[found]]
    assert len(negatives.unique()) == len(negatives)


def test_negatives_are_drawn_afresh_each_epoch(by_class):
    inside = by_class.members["train"][:, 1]
    draws = [set(e[~inside[e]].tolist()) for e in (epoch(OneVsRest(), by_class, 1, s) for s in range(4))]
    assert len(set(map(frozenset, draws))) == 4
    assert len(set().union(*draws)) > len(draws[0])


def test_a_subset_larger_than_the_rest_repeats_negatives():
    data = Data.of(torch.rand(100, 2), (torch.arange(100) % 5 == 0).long(), validation=0.3)
    partition = by_label(data, ["most", "few"])
    inside = partition.members["train"][:, 0]
    found = epoch(OneVsRest(), partition, 0)
    assert len(found) == 2 * int(inside.sum())
    negatives = found[~inside[found]]
    counts = negatives.bincount()[negatives.unique()]
    assert int(counts.max() - counts.min()) <= 1
    assert len(negatives.unique()) == int((~inside).sum())


def test_a_subset_that_is_everything_is_an_error():
    data = Data.of(torch.rand(40, 2), torch.arange(40) % 2)
    partition = by_rule(data, lambda s: {"all": s.y >= 0, "odd": s.y == 1})
    with pytest.raises(PartitionError, match="subset 'all' holds all samples: there is no rest"):
        epoch(OneVsRest(), partition, 0)


def test_the_loss_is_binary_cross_entropy_at_output_k():
    outputs, targets = torch.randn(6, 3, requires_grad=True), torch.tensor([1.0, 0, 1, 0, 1, 0])
    loss = OneVsRest().loss(outputs, targets, 2, NO_INPUTS)
    p = torch.sigmoid(outputs[:, 2])
    torch.testing.assert_close(loss, -(targets * p.log() + (1 - targets) * (1 - p).log()).mean())
    loss.backward()
    assert not outputs.grad[:, :2].any()


def test_too_few_outputs_is_an_error():
    with pytest.raises(DataError, match=r"shape \(4, 2\), but subset number 3 needs one"):
        OneVsRest().loss(torch.randn(4, 2), torch.zeros(4), 2, NO_INPUTS)


def test_owned_leaves_out_only_the_other_rows_of_the_classifier(convnet):
    f = FunctionalModel(convnet, scope(convnet))
    trainable = f.shared.unflatten(OneVsRest().trainable(f.shared, ["9.weight", "9.bias"], 1))
    assert (
        trainable["9.weight"].any(1).tolist() == trainable["9.weight"].all(1).tolist() == [False, True, False]
    )
    assert trainable["9.bias"].tolist() == [False, True, False]
    assert all(bool(m.all()) for name, m in trainable.items() if not name.startswith("9."))


def test_owned_without_a_classifier_is_everything():
    shared = Layout(("a.bias",), ((3,),))
    assert bool(OneVsRest().trainable(shared, (), 0).all())
    assert bool(OneVsRest().trainable(shared, ["head.weight"], 0).all())


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
def test_a_real_step_of_one_ticket_leaves_the_other_rows_bit_for_bit(make_convnet, make_problem, optimizer):
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    options |= {} if optimizer == "Adam" else {"weight_decay": 0.1}
    net = make_convnet(outputs=4)
    problem = make_problem(net, OneVsRest(), TrainConfig(optimizer, 1e-2, 8, options=options))
    masks = MaskSet.dense(problem.f.scope, problem.partition.names)
    theta0 = problem.f.theta0()
    theta = train_jointly(problem, theta0, masks, 3, tickets=[1])
    before, after = (problem.f.shared.unflatten(t.shared_R.detach()) for t in (theta0, theta))
    for name in ("9.weight", "9.bias"):
        changed = (before[name] != after[name]).reshape(4, -1).any(1)
        assert changed.tolist() == [False, True, False, False]
    assert not torch.equal(before["1.weight"], after["1.weight"])


def test_joint_training_moves_a_row_only_in_its_own_steps(convnet, make_problem):
    """Adam's momentum of ticket 0 must not go on moving its row while ticket 1 trains."""
    problem = make_problem(convnet)
    masks = MaskSet.dense(problem.f.scope, problem.partition.names)
    after_both = train_jointly(problem, problem.f.theta0(), masks, 1, tickets=[0, 1])
    after_one = train_jointly(problem, problem.f.theta0(), masks, 1, tickets=[0])
    rows = [problem.f.shared.unflatten(t.shared_R.detach())["9.weight"] for t in (after_both, after_one)]
    assert torch.equal(rows[0][0], rows[1][0])
    assert not torch.equal(rows[0][1], rows[1][1])


def test_scores_are_read_at_output_k_and_yes_is_above_one_half(images, by_class):
    tables = {
        (split, k): torch.randn(len(images.split(split)), 3, generator=generator(0, split, k))
        for split in ("validation", "test")
        for k in range(3)
    }
    found = OneVsRest().evaluate(lambda split, k: tables[split, k], images, by_class)
    for k, name in enumerate(by_class.names):
        true, yes = by_class.members["test"][:, k], tables["test", k][:, k] > 0
        expected = float((true & yes).sum() / true.sum())
        assert Metric("recall", pytest.approx(expected), "paper", name) in found


# -- softmax over the subsets -------------------------------------------------------------------------


def test_log_odds_equal_the_naive_formula():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    p = logits.softmax(1)
    torch.testing.assert_close(SubsetSoftmax.log_odds(logits), p.log() - (1 - p).log())


def test_log_odds_stay_finite_and_ordered_where_the_naive_formula_does_not():
    odds = SubsetSoftmax.log_odds(torch.tensor([[200.0, 0.0, -100.0], [201.0, 0.0, -100.0]]))
    assert bool(torch.isfinite(odds).all())
    assert float(odds[1, 0]) > float(odds[0, 0])


def test_overlapping_subsets_are_an_error(images):
    overlapping = by_rule(images, lambda s: {"low": s.y < 2, "high": s.y > 0})
    with pytest.raises(PartitionError, match="subsets overlap"):
        SubsetSoftmax(overlapping)
    with pytest.raises(PartitionError, match="subsets overlap"):
        OneVsRest().single(overlapping)


def test_softmax_trains_on_the_samples_of_all_subsets(images):
    partition = by_label(images, {2: "c", 0: "a"})
    objective, whole = OneVsRest().single(partition), partition.whole()
    found = epoch(objective, whole, 0)
    assert sorted(found.tolist()) == (images.train.y != 1).nonzero()[:, 0].tolist()
    assert objective.epoch_size(whole, 0) == len(found)
    assert torch.equal(objective.targets(images, whole, found, 0), (images.train.y[found] == 0).long())
    outputs = torch.randn(len(found), 5)  # more outputs than subsets: the others are no classes
    expected = F.cross_entropy(outputs[:, :2], (images.train.y[found] == 0).long())
    torch.testing.assert_close(
        objective.loss(outputs, objective.targets(images, whole, found, 0), 0, NO_INPUTS), expected
    )
    assert objective.single(whole) is objective
    with pytest.raises(DataError, match="subset number 2 needs one"):
        objective.loss(outputs[:, :1], torch.zeros(len(found), dtype=torch.long), 0, NO_INPUTS)


def test_softmax_says_yes_at_its_argmax(images, by_class):
    tables = {s: torch.randn(len(images.split(s)), 3) for s in ("validation", "test")}
    objective = SubsetSoftmax(by_class)
    found = objective.evaluate(lambda split, _: tables[split], images, by_class.whole())
    truth, said = by_class.members["test"].int().argmax(1), tables["test"].argmax(1)
    (plain,) = [m.value for m in found if m.name == "accuracy_argmax"]
    assert plain == pytest.approx(float((truth == said).double().mean()))
    recalls = [m.value for m in found if (m.name, m.reading) == ("recall", "paper") and m.ticket]
    expected = [float((said[truth == k] == k).double().mean()) for k in range(3)]
    assert recalls == pytest.approx(expected)


# -- classification inside each subset ----------------------------------------------------------------


@pytest.fixture
def by_site(images):
    return by_column(images, "site")


def test_an_epoch_of_classification_is_the_subset_once(by_site):
    for k in range(2):
        found = epoch(Classification(), by_site, k)
        assert sorted(found.tolist()) == by_site.members["train"][:, k].nonzero()[:, 0].tolist()
        assert Classification().epoch_size(by_site, k) == len(found)


@pytest.mark.parametrize("single", [False, True])
def test_accuracy_of_each_subset_by_hand(images, by_site, single):
    objective = Classification().single(by_site) if single else Classification()
    outputs = [torch.randn(len(images.test), 3, generator=generator(0, k)) for k in range(2)]
    partition = by_site.whole() if single else by_site
    found = objective.evaluate(lambda split, k, index: outputs[k][index], images, partition)
    expected = []
    for k in range(2):
        right = outputs[0 if single else k].argmax(1) == images.test.y
        expected.append(float(right[by_site.members["test"][:, k]].double().mean()))
    assert [(m.name, m.ticket) for m in found] == [
        ("accuracy", ""),
        ("accuracy", "north"),
        ("accuracy", "south"),
    ]
    assert [m.value for m in found] == pytest.approx([sum(expected) / 2, *expected])


def test_pooled_classification_trains_on_all_subsets(images, by_site):
    pooled = Classification().single(by_site)
    found = epoch(pooled, by_site.whole(), 0)
    assert sorted(found.tolist()) == list(range(len(images.train)))
    assert pooled.epoch_size(by_site.whole(), 0) == len(found)


def test_a_class_without_an_output_is_an_error(images, by_site):
    objective, index = Classification(), torch.arange(10)
    targets = objective.targets(images, by_site, index, 0)
    assert torch.equal(targets, images.train.y[:10])
    with pytest.raises(DataError, match="class 2 in y, but the network has 2 outputs"):
        objective.loss(torch.randn(10, 2), targets, 0, NO_INPUTS)
    assert objective.trainable(Layout((), ()), "9", 0) is None


def test_classes_that_are_no_classes_are_an_error(images, by_site):
    objective, outputs = Classification(), torch.randn(4, 3)
    with pytest.raises(DataError, match="class -1 in y, but classes are numbered from 0"):
        objective.loss(outputs, torch.tensor([0, 1, -1, 2]), 0, NO_INPUTS)
    for shape in ((4, 1), (4, 3)):
        with pytest.raises(DataError, match=r"targets of shape .* do not fit outputs.*argmax"):
            objective.loss(outputs, torch.zeros(shape, dtype=torch.long), 0, NO_INPUTS)
    floats = Data.of(images.train.x, images.train.y.float())
    with pytest.raises(DataError, match=r"needs classes 0, 1, ... in y, not torch.float32: give integers"):
        objective.targets(floats, by_site, torch.arange(4), 0)


def test_small_integers_are_classes(images, by_site):
    small = Data.of(images.train.x, images.train.y.to(torch.uint8))
    assert Classification().targets(small, by_site, torch.arange(4), 0).dtype == torch.int64


def hand_made():
    """Four classes in two subsets of two; the test samples are those of `OUTPUTS`."""

    def split(classes):
        side = np.where(np.array(classes) < 2, "a", "b")
        return Split(torch.zeros(len(classes), 1), torch.tensor(classes), {"side": side})

    return Data(split([0, 1, 2, 3, 0, 1]), split([0, 1, 2, 3]), split([0, 2, 1, 1, 3]))


OUTPUTS = torch.tensor(
    [
        [1.0, 0.0, 5.0, 0.0],  # class 0 of a: highest of its own two, but not of all
        [9.0, 0.0, 1.0, 0.0],  # class 2 of b: the same
        [2.0, 1.0, 0.0, 0.0],  # class 1 of a: wrong either way
        [0.0, 3.0, 1.0, 0.0],  # class 1 of a: right either way
        [0.0, 0.0, 2.0, 3.0],  # class 3 of b: right either way
    ]
)


@pytest.mark.parametrize("single", [False, True])
def test_accuracy_is_among_the_classes_of_the_subset_and_open_among_all(single):
    data, asked = hand_made(), []
    partition = by_column(data, "side")
    objective = Classification().single(partition) if single else Classification()

    def predict(split, k, index):
        asked.append((split, k, index.tolist()))
        return OUTPUTS[index]

    found = objective.evaluate(predict, data, partition.whole() if single else partition)
    values = {(m.name, m.ticket): m.value for m in found}
    assert values == {
        ("accuracy", ""): pytest.approx((2 / 3 + 1) / 2),
        ("accuracy", "a"): pytest.approx(2 / 3),
        ("accuracy", "b"): 1.0,
        ("accuracy_open", ""): pytest.approx((1 / 3 + 1 / 2) / 2),
        ("accuracy_open", "a"): pytest.approx(1 / 3),
        ("accuracy_open", "b"): 0.5,
    }
    assert {m.reading for m in found} == {"like_for_like"}
    assert asked == [("test", 0, [0, 2, 3]), ("test", 0 if single else 1, [1, 4])]


def test_a_ticket_is_trained_among_the_classes_of_its_subset_on_rows_of_its_own():
    data, partition = hand_made(), by_column(hand_made(), "side")
    y, shared = torch.tensor([2, 3, 3]), Layout(("1.weight", "1.bias", "0.bias"), ((4, 2), (4,), (3,)))
    outputs = torch.randn(3, 4, generator=generator(0), requires_grad=True)
    own = Classification("subset").of(data, partition)
    loss = own.loss(outputs, y, 1, NO_INPUTS)
    torch.testing.assert_close(loss, F.cross_entropy(outputs[:, 2:], y - 2))
    loss.backward()
    assert outputs.grad[:, :2].count_nonzero() == 0
    assert own.answers(partition) == {"a": [0, 1], "b": [2, 3]}
    assert own.choices() == {"among": "subset"}
    trainable = shared.unflatten(own.trainable(shared, ["1.weight", "1.bias"], 1))
    assert trainable["1.weight"].all(1).tolist() == trainable["1.bias"].tolist() == [False, False, True, True]
    assert trainable["0.bias"].all()


@pytest.mark.parametrize("single", [False, True])
def test_among_all_classes_every_row_is_everybodys(single):
    data, partition = hand_made(), by_column(hand_made(), "side")
    objective = Classification("subset").single(partition) if single else Classification()
    bound = objective.of(data, partition.whole() if single else partition)
    outputs, y = OUTPUTS[:3], torch.tensor([2, 3, 3])
    torch.testing.assert_close(bound.loss(outputs, y, 0, NO_INPUTS), F.cross_entropy(outputs, y))
    assert bound.answers(partition) == ({} if single else {"a": [0, 1], "b": [2, 3]})
    assert bound.choices() == {}
    assert bound.trainable(Layout(("1.bias",), ((4,),)), ["1.bias"], 0) is None
    with pytest.raises(UsageError, match="among is subset or all: got 'own'"):
        Classification("own")


def test_among_a_single_class_there_is_nothing_to_learn(images, by_class):
    assert Classification().of(images, by_class).choices() == {}
    with pytest.raises(PartitionError, match="holds a single class in training"):
        Classification("subset").of(images, by_class)


def test_subsets_with_the_same_classes_answer_among_all_outputs(images, by_site):
    bound, outputs = Classification("subset").of(images, by_site), torch.randn(4, 5)
    y = torch.tensor([0, 1, 2, 1])
    assert bound.answers(by_site) == bound.choices() == {}
    assert torch.equal(bound.loss(outputs, y, 0, NO_INPUTS), F.cross_entropy(outputs, y))


def test_one_network_that_is_told_the_subset_is_trained_as_tickets_are():
    data, partition = hand_made(), by_column(hand_made(), "side")
    contexts = {s: members.int().argmax(1) for s, members in partition.members.items()}
    conditioned = replace(data, contexts=contexts)
    bound = Classification("subset").single(partition).of(conditioned, partition.whole())
    index = torch.tensor([0, 3])  # of a, of b
    x, y = conditioned.inputs("train", index), bound.targets(conditioned, partition.whole(), index, 0)
    outputs = torch.randn(2, 4, generator=generator(1))
    pairs = [F.cross_entropy(outputs[:1, :2], y[:1]), F.cross_entropy(outputs[1:, 2:], y[1:] - 2)]
    torch.testing.assert_close(bound.loss(outputs, y, 0, x), sum(pairs) / 2)


def test_every_subset_is_asked_of_its_own_ticket_or_of_the_one_network(images, by_site):
    def predict(split, k, index):
        return torch.stack([torch.full((len(index),), k), index], 1)

    for objective, partition in (
        (Classification(), by_site),
        (Classification().single(by_site), by_site.whole()),
    ):
        found = list(objective.by_subset(predict, partition))
        assert [(k, name) for k, name, _, _ in found] == [(0, "north"), (1, "south")]
        for k, _, index, outputs in found:
            assert torch.equal(index, by_site.members["test"][:, k].nonzero()[:, 0])
            assert torch.equal(outputs[:, 1], index)
            assert set(outputs[:, 0].tolist()) == {k if partition is by_site else 0}
    assert Classification().original is None  # `single` made a copy


def test_a_mean_counts_every_subset_alike():
    assert mean_and_each("psnr", {"sky": 30.0, "tree": 21.0, "road": 24.0}, "paper") == [
        Metric("psnr", 25.0, "paper"),
        Metric("psnr", 30.0, "paper", "sky"),
        Metric("psnr", 21.0, "paper", "tree"),
        Metric("psnr", 24.0, "paper", "road"),
    ]
    assert [m.reading for m in mean_and_each("psnr", {"sky": 30.0})] == ["", ""]


@pytest.mark.parametrize("batch", [1, 3, 500])
def test_outputs_come_in_the_order_of_the_samples_that_are_asked_for(images, batch):
    module, x = torch.nn.Flatten(), images.test.x.flatten(1)
    index = torch.tensor([5, 0, 5, 17, 3])
    assert torch.equal(predict(module, images, "test", index, rows=batch), x[index])
    assert torch.equal(predict(module, images, "test", rows=batch), x)


def test_every_objective_says_whether_the_subset_is_the_answer():
    kinds = (OneVsRest, SubsetSoftmax, InSubset, Classification, MultiLabel)
    asked = {c.__name__: c.context_is_answer for c in kinds}
    assert asked == {
        "OneVsRest": True,
        "SubsetSoftmax": True,
        "InSubset": False,
        "Classification": False,
        "MultiLabel": False,
    }
