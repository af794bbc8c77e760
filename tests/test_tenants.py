"""Tenants whose pixels and labels are in orders of their own."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS
from tombola.lab.experiments import DIGITS, TENANTS, TENANTS_AGREE, TENANTS_LABELS
from tombola.lab.experiments.tenants import one_more, order_of, tenants
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.runs.cache import StageCache

shares = st.floats(0, 1)
numbers = st.integers(0, 50)


def of_tenants(split, K):
    """The inputs and labels of every tenant, in the order of the samples."""
    masks = [split.columns["tenant"] == k for k in range(K)]
    return [(split.x[torch.from_numpy(mine)], split.y[torch.from_numpy(mine)]) for mine in masks]


@given(tenant=numbers, size=st.integers(1, 100), share=shares, seed=numbers)
def test_an_order_is_a_bijection_and_a_function_of_its_arguments(tenant, size, share, seed):
    order = order_of(tenant, size, share, seed, "pixels")
    assert sorted(order.tolist()) == list(range(size))
    assert torch.equal(order, order_of(tenant, size, share, seed, "pixels"))
    assert int((order != torch.arange(size)).sum()) <= round(share * size)


@given(share=shares, larger=shares, seed=numbers)
def test_a_weaker_shuffle_leaves_alone_what_a_stronger_one_does(share, larger, seed):
    share, larger = sorted((share, larger))
    weak, strong = (
        torch.stack([order_of(k, 64, s, seed, "pixels") for k in range(40)]) != torch.arange(64)
        for s in (share, larger)
    )
    assert not bool((weak.any(0) & ~strong.any(0)).any())


def test_the_strength_is_the_share_that_any_tenant_has_elsewhere():
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        moved = torch.stack([order_of(k, 64, share, 0, "pixels") for k in range(10)]) != torch.arange(64)
        assert int(moved.any(0).sum()) == round(64 * share)
        assert all(int(row.sum()) >= 0.8 * 64 * share for row in moved)
    assert len({tuple(order_of(k, 64, 1.0, 0, "pixels").tolist()) for k in range(100)}) == 100


def test_at_strength_0_all_tenants_have_the_digits():
    data, plain = TENANTS_AGREE.load(None, False), DIGITS.load(None, False)
    for name in SPLITS:
        split = plain.split(name)
        for x, y in of_tenants(data.split(name), 10):
            assert torch.equal(x, split.x.flatten(1))
            assert torch.equal(y, split.y)


def test_at_strength_1_every_tenant_has_the_same_images_in_its_own_order():
    data = TENANTS.load(None, False)
    (x, y), *others = of_tenants(data.train, 10)
    for other_x, other_y in others:
        assert torch.equal(other_y, y)
        assert not torch.equal(other_x, x)
        assert torch.equal(other_x.sort(1).values, x.sort(1).values)


def test_labels_that_mean_something_else_do_so_for_all_images():
    data = TENANTS_LABELS.load(None, False)
    (x, y), *others = of_tenants(data.test, 5)
    for other_x, other_y in others:
        assert torch.equal(other_x, x)
        assert len(set(zip(y.tolist(), other_y.tolist(), strict=True))) == 10
        assert not torch.equal(other_y, y)
    assert TENANTS_LABELS.preset(None)[1].settings.private == ()


def test_no_test_image_is_in_the_training_of_any_tenant():
    data = TENANTS.load(None, False)
    held = {name: set(map(tuple, data.split(name).x.sort(1).values.tolist())) for name in SPLITS}
    assert not held["train"] & held["test"]
    assert not held["train"] & held["validation"]
    assert not held["validation"] & held["test"]


def test_every_tenant_is_in_each_half_of_the_validation_split():
    assert len(TENANTS.partition(TENANTS.load(None, False).tuning())) == 10


@pytest.mark.parametrize("wrong", [{"K": 1}, {"pixels": 1.5}, {"labels": -0.1}])
def test_strengths_and_numbers_that_are_none_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        tenants(**wrong)
    with pytest.raises(UsageError, match="takes no --data"):
        TENANTS.load("folder", False)


def short(experiment, **changes):
    """A pipeline of a few steps."""
    settings = dataclasses.replace(
        experiment.preset(None)[1].settings, sparsity=(0.8,), schedule="one_shot", T=2, steps=2, **changes
    )
    data = experiment.load(None, False)
    net, partition = experiment.backbone(generator(0, "theta0")), experiment.partition(data)
    return Pipeline(net, experiment.objective, data, partition, settings, 0, StageCache())


def test_output_layers_are_counted_for_every_ticket_that_has_one():
    own, shared = short(tenants(3)), short(tenants(3, heads=False))
    head = 64 * 10 + 10
    for name, heads in (
        ("rtl", 3),
        ("same_mask", 3),
        ("union_size_same_mask", 3),
        ("imp_per_subset", 3),
        ("imp_context", 1),
        ("imp", 1),
    ):
        counted = run_method(own, name, 0.8)
        assert counted["private"] == heads * head
        assert counted["dense_rest"] == run_method(shared, name, 0.8)["dense_rest"] - head * len(
            counted.models
        )
    assert run_method(shared, "rtl", 0.8)["private"] == 0


@pytest.mark.parametrize("experiment", [TENANTS, TENANTS_LABELS], ids=lambda e: e.name)
def test_all_methods_run(experiment):
    pipeline = short(experiment)
    for name in experiment.methods():
        sparsity = 0.0 if "dense" in name else 0.8
        assert 0 <= run_method(pipeline, name, sparsity)["accuracy"] <= 1


def test_one_more_has_the_digits_in_an_order_of_its_own():
    ten, more = tenants().load(None, False), one_more()
    first = ten.train.take(torch.arange(0, len(ten.train), 10))  # those of tenant 0, in the same order
    assert torch.equal(more.train.y, first.y)
    assert torch.equal(more.train.x.sort(1).values, first.x.sort(1).values)
    assert not torch.equal(more.train.x, first.x)
