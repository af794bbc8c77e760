"""Affinity of subsets, and subsets that are found by it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tombola as tb
from tombola.analysis import affinity as module
from tombola.analysis.affinity import Affinity, quantiles
from tombola.analysis.discover import discovery, merge
from tombola.analysis.split import alike, propose
from tombola.cli.main import main
from tombola.lab.launch import Order
from tombola.settings import TrainConfig

CONFIG = TrainConfig(lr=3e-3, batch_size=32)


def network(inputs: int = 8, outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, outputs)
    )


def world(
    turned: tuple[bool, ...], samples: int = 1200, seed: int = 0
) -> tuple[tb.Data, tb.partition.Partition]:
    """Contexts in which the answer is the sign of the first feature, or its opposite."""
    g = torch.Generator().manual_seed(seed)
    x, context = torch.randn(samples, 8, generator=g), torch.arange(samples) % len(turned)
    y = (x[:, 0] > 0).long() ^ torch.tensor(turned).long()[context]
    data = tb.Data.of(x, y, {"context": context.numpy()})
    return data, tb.partition.by_column(data, "context")


def planted(names: int, truth: torch.Tensor, batches: int, noise: float, seed: int) -> Affinity:
    """The affinity of gradients ``[K, N]`` whose batches have noise of so much deviation."""
    g = torch.Generator().manual_seed(seed)
    rows = truth.double().repeat_interleave(batches, 0)
    rows = rows + noise * torch.randn(rows.shape, generator=g, dtype=torch.float64)
    return Affinity(tuple(map(str, range(names))), ("w",), (0,), (rows @ rows.T)[None, None])


def test_contexts_that_agree_have_affinity_one_and_opposites_minus_one():
    data, partition = world((False, False, True))
    found = tb.affinity(network(), tb.objectives.Classification(), data, partition, search=CONFIG)
    matrix = found.matrix()
    assert matrix[0, 1] > 0.8
    assert matrix[0, 2] < -0.5
    assert matrix[1, 2] < -0.5
    assert torch.equal(matrix.diagonal(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(matrix, matrix.T)
    low, high = found.interval()
    assert low < found.mean < high


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.5, 1.0])
def test_noise_does_not_bias_it(cosine):
    """The mean over draws is the cosine of the expected gradients, where the plain cosine is far below."""
    truth = torch.zeros(2, 400)
    truth[0, 0], truth[1, 0], truth[1, 1] = 2.0, 2 * cosine, 2 * (1 - cosine**2) ** 0.5
    draws = [planted(2, truth, 8, 0.3, seed) for seed in range(60)]
    found = np.mean([float(draw.matrix()[0, 1]) for draw in draws])
    assert abs(found - cosine) < 0.05
    gram = draws[0].gram_PLRR[0, 0]
    a, b = gram[:8].sum(0), gram[8:].sum(0)
    plain = float(a[8:].sum() / (a[:8].sum() * b[8:].sum()).sqrt())
    assert cosine == 0 or abs(plain) < 0.7 * abs(cosine)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = torch.zeros(2, 50)
    truth[0, 0], truth[1, 0], truth[1, 1] = 2.0, 1.2, 1.6
    held = [low <= 0.6 <= high for low, high in (planted(2, truth, 12, 0.3, s).interval() for s in range(80))]
    assert 0.75 <= np.mean(held) <= 1.0


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_it_does_not_depend_on_the_scale_of_a_subset(scale, seed):
    truth = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed))
    found = planted(3, truth, 4, 0.1, seed)
    factors = torch.tensor([1.0, scale, 1.0], dtype=torch.float64).repeat_interleave(4)
    scaled = Affinity(found.names, found.layers, found.points, found.gram_PLRR * factors * factors[:, None])
    torch.testing.assert_close(found.matrix(), scaled.matrix(), equal_nan=True)


def test_a_union_has_the_mean_gradient_of_its_members():
    truth = torch.eye(3)
    found = planted(3, truth, 6, 0.0, 0)
    matrix = found.matrix(groups=[[0, 1], [2]])
    assert float(matrix[0, 1]) == 0
    alone = found.matrix(groups=[[0, 1], [0]])
    assert abs(float(alone[0, 1]) - 0.5**0.5 / (2 * (5 / 6) + 2 * 1.0) ** 0.5 * 2**0.5) < 0.2


def test_layers_and_points_are_told_apart():
    data, partition = world((False, True))
    found = tb.affinity(
        network(), tb.objectives.Classification(), data, partition, points=(0, 3), search=CONFIG
    )
    assert list(found.by_layer()) == ["0.weight", "2.weight"]
    assert list(found.by_point()) == [0, 3]
    with pytest.raises(tb.TombolaError, match=r"9\.weight"):
        found.matrix(["9.weight"])


def test_it_is_a_function_of_the_seed_and_leaves_the_network_alone():
    data, partition = world((False, True))
    net = network()
    before, state = {n: p.clone() for n, p in net.named_parameters()}, torch.get_rng_state()
    first, second, other = (
        tb.affinity(net, tb.objectives.Classification(), data, partition, search=CONFIG, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.gram_PLRR, second.gram_PLRR)
    assert not torch.equal(first.gram_PLRR, other.gram_PLRR)
    assert all(torch.equal(before[n], p) for n, p in net.named_parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_of_large_networks_a_part_is_read(monkeypatch):
    data, partition = world((False, True))
    whole = tb.affinity(network(), tb.objectives.Classification(), data, partition, search=CONFIG)
    monkeypatch.setattr(module, "MEMORY", 16 * 400)  # of 768 weights and 16 gradients
    part = tb.affinity(network(), tb.objectives.Classification(), data, partition, search=CONFIG)
    assert not torch.equal(whole.gram_PLRR, part.gram_PLRR)
    assert abs(whole.mean - part.mean) < 0.15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batches": 1}, "at least 2 batches"),
        ({"points": ()}, "points are numbers of steps"),
        ({"points": (0, 0)}, "each once"),
        ({"batches": 10_000}, "too few for 10000 batches"),
        ({"lr": 0.1}, "lr belongs to a TrainConfig"),
        ({"batchs": 4}, "there is no setting 'batchs'"),
        ({"sparsity": 2.0}, "sparsity"),
    ],
)
def test_bad_arguments_are_refused(options, words):
    data, partition = world((False, True))
    with pytest.raises(tb.TombolaError, match=words):
        tb.affinity(network(), tb.objectives.Classification(), data, partition, **options)


@pytest.mark.parametrize("seed", range(3))
def test_planted_groups_are_found(seed):
    data, fine = world((False, True, False, True, True, False), samples=2400, seed=seed)
    found = tb.discover(network(), tb.objectives.Classification(), data, fine, search=CONFIG)
    assert found.names == ("0+2+5", "1+3+4")
    assert all(torch.equal(m.any(1), fine.members[s].any(1)) for s, m in found.members.items())


def test_contexts_that_agree_become_one_subset_unless_more_are_asked_for():
    data, fine = world((False,) * 4)
    options = {"search": CONFIG}
    assert len(tb.discover(network(), tb.objectives.Classification(), data, fine, **options)) == 1
    assert len(tb.discover(network(), tb.objectives.Classification(), data, fine, K=3, **options)) == 3
    with pytest.raises(tb.TombolaError, match="between 1 and the 4 groups"):
        tb.discover(network(), tb.objectives.Classification(), data, fine, K=5, **options)


def test_a_discovery_says_how_near_its_groups_are_to_being_others():
    data, fine = world((False, True, False, True), samples=1600)
    found = discovery(network(), tb.objectives.Classification(), data, fine, search=CONFIG)
    assert found.partition.names == ("0+2", "1+3")
    matrix, union = found.affinity.matrix(), found.affinity.matrix(groups=found.groups)
    for j, (a, b) in enumerate(found.groups):
        inside, beside = found.within(j), found.nearest(j)
        assert inside.names == (fine.names[a], fine.names[b])
        assert inside.affinity == pytest.approx(float(matrix[a, b]))
        assert (beside.names[1], beside.affinity) == (
            found.partition.names[1 - j],
            pytest.approx(float(union[0, 1])),
        )
        assert inside.affinity > inside.bound  # so they were merged,
        assert beside.affinity < beside.bound <= 0.5  # and these were not
    one = discovery(network(), tb.objectives.Classification(), data, fine, K=1, search=CONFIG)
    assert one.nearest(0) is None
    assert one.within(0).affinity == pytest.approx(float(matrix.min()))
    each = discovery(network(), tb.objectives.Classification(), data, fine, K=4, search=CONFIG)
    assert each.within(0) is None
    assert each.nearest(0).affinity == pytest.approx(float(matrix[0, 1:].max()))


def test_the_bound_is_where_the_interval_of_a_pair_ends_at_one():
    found = planted(3, torch.eye(3)[:, :2] + 0.5, 8, 0.5, 0)
    bound, matrix = found.bound(), found.matrix()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        high = quantiles(found.resampled()[:, a, b], 0.95)[1]
        assert float(matrix[a, b] - bound[a, b]) == pytest.approx(float(high) - 1)


def test_neighbours_do_not_chain():
    """Directions that turn by 40 degrees each: neighbours agree, the ends do not."""
    angles = torch.arange(6) * torch.pi * 40 / 180
    truth = torch.stack([angles.cos(), angles.sin()], 1)
    groups = merge(planted(6, truth, 8, 0.01, 0), enough=0.7)
    assert len(groups) >= 2
    assert sorted(k for group in groups for k in group) == list(range(6))


# -- splitting ----------------------------------------------------------------------------------------------


def place(split: tb.data.Split) -> np.ndarray:
    """Where a sample was taken, which is all that is known of its context."""
    context = split.columns["context"]
    noise = np.random.default_rng(len(split)).normal(size=(len(split), 2))
    return noise + 9 * np.stack([np.cos(context), np.sin(context)], 1)


def known_classes(split: tb.data.Split) -> np.ndarray:
    return place(split) + 99 * split.y.numpy()[:, None]


@pytest.mark.parametrize("seed", range(2))
def test_from_one_group_of_all_contexts_that_disagree_are_split(seed):
    data, _ = world((False, True, True, False), 2400, seed)
    options = {"search": CONFIG, "points": (5,)}
    found = tb.discover(network(), tb.objectives.Classification(), data, features=place, **options)
    context = torch.from_numpy(data.train.columns["context"])
    groups = [context[members].unique().tolist() for members in found.members["train"].unbind(1)]
    assert sorted(groups) == [[0, 3], [1, 2]]  # of which two that agree were parted and merged again


@pytest.mark.parametrize("features", [place, known_classes])
def test_contexts_that_agree_stay_one_group(features):
    """Parts of other classes ask for other things, which is no disagreement."""
    data, _ = world((False, False, False), 1200)
    found = tb.discover(network(), tb.objectives.Classification(), data, features=features, search=CONFIG)
    assert found.names == ("all",)


def test_parts_are_proposed_by_samples_that_do_not_test_them():
    points = {name: np.arange(40.0)[:, None] for name in ("train", "validation", "test")}
    group = {name: torch.arange(40) < 30 for name in points}
    parts, tested = propose(points, group, torch.Generator().manual_seed(0))
    assert int(tested.sum()) == 15
    assert not bool((tested & ~group["train"]).any())
    for name, inside in group.items():
        assert torch.equal(parts[0][name] ^ parts[1][name], inside)
    moved = {
        **points,
        "train": points["train"] + 1000 * tested.numpy()[:, None] * (np.arange(40) % 2)[:, None],
    }
    again, _ = propose(moved, group, torch.Generator().manual_seed(0))
    assert torch.equal(again[0]["validation"], parts[0]["validation"])  # whatever the others are


@given(st.integers(0, 1000), st.integers(1, 4))
def test_parts_are_compared_on_as_many_samples_of_each_label(seed, labels):
    g = torch.Generator().manual_seed(seed)
    y, parts = torch.randint(labels, (60,), generator=g), torch.rand(60, 2, generator=g) < 0.4
    parts[:, 1] &= ~parts[:, 0]
    chosen = alike(y, parts, g)
    assert not bool((chosen & ~parts).any())
    counts = [torch.bincount(y[mine], minlength=labels) for mine in chosen.unbind(1)]
    least = torch.stack([torch.bincount(y[mine], minlength=labels) for mine in parts.unbind(1)]).amin(0)
    assert torch.equal(counts[0], counts[1])
    assert torch.equal(counts[0], least if int((least > 0).sum()) > 1 else torch.zeros_like(least))


def test_what_has_no_parts_to_compare_is_refused():
    data, fine = world((False, True))
    with pytest.raises(tb.TombolaError, match="give groups to merge"):
        tb.discover(network(), tb.objectives.Classification(), data)
    with pytest.raises(tb.TombolaError, match="asks for the subset itself"):
        tb.discover(network(), tb.objectives.OneVsRest(), data, fine, features=place)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"most": 0}, "most is a share"),
        ({"most": 1.5}, "most is a share"),
        ({"K": 2.5}, "K is a number of subsets"),
        ({"K": 9}, "K is between 1 and the 2 groups that there are"),
        ({"features": "x"}, "features are a function of a split"),
    ],
)
def test_bad_arguments_of_discovery_are_refused_before_gradients_are_taken(options, words, monkeypatch):
    data, fine = world((False, True))
    monkeypatch.setattr("tombola.analysis.discover.affinity", None)
    with pytest.raises(tb.TombolaError, match=words):
        tb.discover(network(), tb.objectives.Classification(), data, fine, **options)


def test_settings_of_discovery_are_named_as_those_of_advice_are():
    data, fine = world((False, True))
    with pytest.raises(tb.TombolaError, match="lr belongs to a TrainConfig"):
        tb.discover(network(), tb.objectives.Classification(), data, fine, lr=0.1)


def test_a_share_without_a_number_makes_as_few_subsets_as_have_room():
    data, fine = world((False, False, False, False))
    found = tb.discover(network(), tb.objectives.Classification(), data, fine, most=0.3)
    assert found.names == fine.names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tenants_labels", "--k", "1"], "tombola run tenants_labels --method imp"),
        (["tenants_labels", "--k", "5"], "tombola advise tenants_labels"),
        (["tenants_labels", "--k", "4"], "partition.merged({"),
    ],
)
def test_the_command_says_what_to_do_with_what_it_found(arguments, words, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["discover", *arguments])
    assert words in capsys.readouterr().out


def test_the_command_prints_affinities_beside_the_bound(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["discover", "tenants_labels", "--k", "2"])
    said = capsys.readouterr().out
    assert "least affinity within" in said
    assert "greatest to another" in said
    assert "Groups are merged from the bound on: 0.5" in said
    assert "K=2 was asked for" in said
    with pytest.raises(SystemExit, match="0"):
        main(["discover", "tenants_labels", "--k", "2", "--json"])
    one, other = json.loads(capsys.readouterr().out)
    assert one["greatest_to_other"] == pytest.approx(other["greatest_to_other"])
    assert one["greatest_to_other_pair"] == [one["subset"], other["subset"]]
    load = Order.load
    monkeypatch.setattr(Order, "load", lambda self: dict.fromkeys(("a", "b"), load(self)[""]))
    with pytest.raises(SystemExit, match="0"):
        main(["discover", "tenants_labels", "--k", "2", "--json"])
    assert [row["item"] for row in json.loads(capsys.readouterr().out)] == ["a", "a", "b", "b"]  # one list
    larger = max(one, other, key=lambda row: row["samples"])
    assert {*larger["least_within_pair"]} <= {*larger["subset"].split("+")}
    assert -1 <= larger["least_within"] <= 1
    assert larger["least_within_bound"] <= 0.5
