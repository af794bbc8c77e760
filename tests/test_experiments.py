"""Experiments: their data, splits, backbones and presets."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tombola._utils.errors import DataError, UsageError
from tombola._utils.rng import generator
from tombola.lab.experiments import CIFAR10, DIGITS, EXPERIMENTS, cifar10, experiment
from tombola.lab.models import language
from tombola.masks.prunable import scope
from tombola.methods.context import conditioned
from tombola.methods.table import STANDARD
from tombola.objectives import Classification

CIFAR10_DATA = Path(__file__).parents[2] / "shared" / "data" / "cifar10"


def test_experiments_are_found_by_name_and_near_misses_are_suggested():
    assert experiment("digits") is DIGITS
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        experiment("digit")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_first_preset_is_the_default_and_unknown_ones_are_named(name):
    found = experiment(name)
    assert found.name == name
    first = next(iter(found.presets))
    assert found.preset(None) == found.preset(first)
    with pytest.raises(UsageError, match=f"did you mean '{first}'"):
        found.preset(first[:-1])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_backbone_depends_on_the_generator_alone(name, monkeypatch):
    monkeypatch.setattr(language, "weights", lambda: None)  # of a pretrained network nothing is drawn
    states = [experiment(name).backbone(generator(seed, "theta0")).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not all(torch.equal(states[0][n], states[2][n]) for n in states[0])


def test_no_method_is_told_the_context_where_that_is_the_answer():
    conditioned = {"imp_context", "dense_context"}
    assert conditioned == {name for name, method in STANDARD.items() if method.conditioned}
    assert DIGITS.methods() == [name for name in STANDARD if name not in conditioned]
    given = dataclasses.replace(DIGITS, objective=Classification())
    assert given.methods() == list(STANDARD)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_backbone_whose_context_is_given_can_be_told_it(name):
    if experiment(name).objective.context_is_answer:
        pytest.skip("the subset is what is asked for")
    if not experiment(name).told:
        pytest.skip("its first layer takes no further input")
    backbone = experiment(name).backbone(generator(0, "theta0"))
    network = conditioned(backbone, 3, 16, generator(0, "told"))
    (added,) = network.state_dict().keys() - backbone.state_dict().keys()
    assert added.endswith("context")
    assert scope(network).names == scope(backbone).names


# -- digits -----------------------------------------------------------------------------------------------


def test_digits_are_split_once_and_for_all():
    first, second = DIGITS.load(None, False), DIGITS.load(None, False)
    sizes = {split: len(first.split(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 1078, "validation": 270, "test": 449}
    for split in sizes:
        assert torch.equal(first.split(split).x, second.split(split).x)
    every = torch.cat([first.split(split).x for split in sizes]).flatten(1)
    assert every.shape == (1797, 64)
    assert len(every.unique(dim=0)) == 1797  # no image twice: nothing leaks from split to split
    assert 0 <= float(every.min()) < float(every.max()) == 1


def test_digits_have_one_subset_per_digit():
    data = DIGITS.load(None, False)
    partition = DIGITS.partition(data)
    assert partition.names[3] == "three"
    assert torch.equal(partition.members["test"][:, 3], data.test.y == 3)
    assert DIGITS.backbone(generator(0))(data.inputs("test", torch.arange(5))).shape == (5, 10)


def test_digits_take_no_data_and_no_augmentation():
    with pytest.raises(UsageError, match="takes no --data"):
        DIGITS.load("somewhere", False)
    with pytest.raises(UsageError, match="no augmentation"):
        DIGITS.load(None, True)


# -- CIFAR-10 ---------------------------------------------------------------------------------------------


def write_tree(folder, per_class):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in cifar10.NAMES:
            directory = folder / split / name
            directory.mkdir(parents=True)
            for i in range(per_class):
                picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(picture).save(directory / f"{i}.png")


def test_cifar10_is_read_from_a_folder_and_its_validation_split_is_fixed(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "VALIDATION", 60)
    write_tree(tmp_path, 12)
    first, second = (CIFAR10.load(str(tmp_path), augment) for augment in (False, True))
    assert [len(first.split(s)) for s in ("train", "validation", "test")] == [60, 60, 120]
    for split in ("train", "validation", "test"):
        assert torch.equal(first.split(split).x, second.split(split).x)
    together = torch.cat([first.train.x, first.validation.x]).flatten(1)
    assert len(together.unique(dim=0)) == 120
    assert first.augment is None
    assert second.augment is not None


def test_cifar10_batches_are_what_its_backbone_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "VALIDATION", 60)
    write_tree(tmp_path, 12)
    data = CIFAR10.load(str(tmp_path), True)
    x = data.inputs("train", torch.arange(4), generator(0))
    assert x.dtype == torch.float32
    backbone = CIFAR10.backbone(generator(0)).eval()
    assert backbone(x).shape == (4, 10)
    assert scope(backbone).size == 125_832  # the paper's 126K
    assert CIFAR10.partition(data).names == tuple(cifar10.NAMES)


def test_cifar10_with_too_few_images_says_so(tmp_path):
    write_tree(tmp_path, 1)
    with pytest.raises(DataError, match="10 training images; more than 5000 are needed"):
        CIFAR10.load(str(tmp_path), False)


def test_the_papers_figures_are_those_of_its_table_1():
    assert CIFAR10.paper["rtl", 0.25]["balanced_accuracy"] == 0.781
    assert CIFAR10.paper["imp", 0.75]["recall"] == 0.518
    assert CIFAR10.paper["imp_per_subset", 0.5]["union"] == 629_000
    assert len(CIFAR10.paper) == 9


@pytest.mark.skipif(not CIFAR10_DATA.is_dir(), reason=f"the CIFAR-10 files are not there: {CIFAR10_DATA}")
def test_the_real_cifar10_has_45000_5000_and_10000_balanced_images(few_pictures):
    data = CIFAR10.load(str(CIFAR10_DATA), False)
    counts = [data.split(s).y.bincount(minlength=10) for s in ("train", "validation", "test")]
    assert [int(c.sum()) for c in counts] == [45_000, 5_000, 10_000]
    assert (counts[0] + counts[1]).tolist() == [5_000] * 10
    assert counts[2].tolist() == [1_000] * 10
    assert all(400 < c < 600 for c in counts[1].tolist())
    assert data.train.x.shape == (45_000, 3, 32, 32)
    x = data.inputs("train", data.train.x.flatten(1).any(1).nonzero()[:, 0])
    assert len(x) == 2_000
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=0.03, rtol=0)
