"""Corruptions of images, and environments laid over data."""

import dataclasses

import numpy as np
import pytest
import torch

from tombola._utils.errors import DataError, UsageError
from tombola._utils.rng import generator
from tombola.data import partition
from tombola.data.corruptions import CORRUPTIONS, ENVIRONMENTS, blur, environments, fog, noise, rotation
from tombola.data.dataset import SPLITS, Data
from tombola.lab.experiments import CIFAR10_CORRUPTIONS, DIGITS, cifar10
from tombola.lab.experiments import CORRUPTIONS as EXPERIMENT
from tombola.lab.experiments import corruptions as experiments


def pictures(count=40, channels=3, side=12, dtype=torch.uint8, seed=0):
    x = torch.rand(count, channels, side, side, generator=generator(seed, "pictures"))
    return (x * 255).to(torch.uint8) if dtype == torch.uint8 else x.to(dtype)


def some_data(count=120, **options):
    return Data.of(pictures(count, **options), torch.arange(count) % 3, {"site": np.arange(count)})


# -- corruptions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_keep_shape_dtype_range_and_their_input(name, channels, dtype):
    x = pictures(6, channels, dtype=dtype)
    before = x.clone()
    first, again = (CORRUPTIONS[name](x, 3, generator(0)) for _ in range(2))
    assert first.shape == x.shape
    assert first.dtype == dtype
    assert torch.equal(first, again)
    assert torch.equal(x, before)
    assert 0 <= float(first.min()) <= float(first.max()) <= (255 if dtype == torch.uint8 else 1)
    assert torch.equal(first, x) == (name == "clean")


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "clean"])
def test_a_higher_severity_is_further_from_the_image(name):
    x = torch.zeros(8, 1, 32, 32)
    x[:, :, 6:26, 14:18] = 1  # a bar that no turn of less than 100 degrees brings back
    apart = [float((CORRUPTIONS[name](x, s, generator(0)) - x).abs().mean()) for s in (1, 3, 5)]
    assert apart[0] < apart[1] < apart[2]


@pytest.mark.parametrize("name", ["rotation", "noise", "fog"])
def test_what_is_drawn_depends_on_the_generator_alone(name):
    x = pictures(6)
    first, other = (CORRUPTIONS[name](x, 3, generator(seed)) for seed in (0, 1))
    assert not torch.equal(first, other)
    same = x[:1].expand(6, -1, -1, -1)
    assert len(CORRUPTIONS[name](same, 3, generator(0)).flatten(1).unique(dim=0)) == 6


def test_rotation_turns_by_the_angle_that_was_drawn_and_keeps_the_aspect():
    x = torch.zeros(50, 1, 41, 61)
    x[:, :, 20, 40] = 1  # 10 pixels to the right of the centre
    turned = rotation(x, 4, generator(0))
    drawn = torch.deg2rad(60 + 20 * torch.rand(50, generator=generator(0)) - 10)
    rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(61.0) - 30, indexing="ij")
    mass = turned.sum((1, 2, 3))
    right = (turned[:, 0] * columns).sum((1, 2)) / mass
    down = (turned[:, 0] * rows).sum((1, 2)) / mass
    torch.testing.assert_close(torch.hypot(right, down), torch.full((50,), 10.0), atol=0.3, rtol=0)
    torch.testing.assert_close(torch.atan2(-down, right).abs(), drawn, atol=0.04, rtol=0)
    assert bool((down > 0).all()) or bool((down < 0).all())  # always the same way


def test_blur_spreads_a_point_as_a_gaussian_does_and_wider_in_large_images():
    for side, sigma in ((33, 0.9 * 33 / 32), (64, 1.8)):
        x = torch.zeros(1, 1, side, side)
        x[0, 0, side // 2, side // 2] = 1
        spread = blur(x, 3, generator(0))[0, 0].double()
        offsets = torch.arange(side).double() - side // 2
        assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
        assert float((spread.sum(0) * offsets**2).sum()) == pytest.approx(sigma**2, rel=0.05)


def test_noise_has_the_stated_deviation_and_fog_the_stated_contrast():
    grey = torch.full((4, 1, 64, 64), 0.5)
    assert float(noise(grey, 2, generator(0)).std()) == pytest.approx(0.12, abs=0.003)
    black, white = (fog(torch.full((4, 3, 16, 16), v), 3, generator(0)) for v in (0.0, 1.0))
    torch.testing.assert_close(white - black, torch.full_like(white, 1 - 0.45))
    assert float(black.min()) >= 0.45 * 0.6 - 1e-6
    assert torch.equal(black[:, 0], black[:, 2])  # fog has no colour


def test_tiny_images_can_be_corrupted():
    for corruption in CORRUPTIONS.values():
        assert corruption(pictures(2, 1, side=2), 5, generator(0)).shape == (2, 1, 2, 2)


# -- environments -----------------------------------------------------------------------------------------


def test_environments_are_balanced_in_every_split_and_class_and_named_in_a_column():
    data = some_data()
    laid = environments(data)
    for split in SPLITS:
        column, y = laid.split(split).column("environment"), laid.split(split).y.numpy()
        counts = [int((column == name).sum()) for name in ENVIRONMENTS]
        assert max(counts) - min(counts) <= 1
        for c in range(3):
            counts = [int(((column == name) & (y == c)).sum()) for name in ENVIRONMENTS]
            assert max(counts) - min(counts) <= 1
        assert torch.equal(laid.split(split).y, data.split(split).y)
        assert (laid.split(split).column("site") == data.split(split).column("site")).all()
    assert partition.by_column(laid, "environment").names == tuple(sorted(ENVIRONMENTS))


def test_clean_samples_stay_and_the_others_change():
    data = some_data()
    laid = environments(data, ["clean", "noise"])
    clean = torch.from_numpy(laid.train.column("environment") == "clean")
    same = (laid.train.x == data.train.x).flatten(1).all(1)
    assert torch.equal(same, clean)


def test_environments_depend_on_seed_and_severity_and_leave_the_data_alone():
    data = some_data()
    before = data.train.x.clone()
    first, again, seed, strong = (
        environments(data, **options) for options in ({}, {}, {"seed": 1}, {"severity": 5})
    )
    assert torch.equal(data.train.x, before)
    assert torch.equal(first.test.x, again.test.x)
    assert (first.test.column("environment") != seed.test.column("environment")).any()
    assert (first.test.column("environment") == strong.test.column("environment")).all()
    assert not torch.equal(first.test.x, strong.test.x)


def test_more_samples_than_a_chunk_are_each_laid_once(monkeypatch):
    monkeypatch.setattr("tombola.data.corruptions.CHUNK", 7)
    data = some_data()
    noisy = environments(data, ["noise"])
    assert not (noisy.train.x == data.train.x).flatten(1).all(1).any()


def test_prepare_augment_and_regression_targets_stay():
    x = pictures(40, dtype=torch.float32)
    data = Data.of(x, torch.rand(40, 2), prepare=torch.sqrt, augment=lambda x, g: x)
    laid = environments(data)
    assert laid.prepare is torch.sqrt
    assert laid.augment is data.augment
    assert laid.train.x.dtype == torch.float32


def test_corruptions_of_ones_own_are_environments():
    laid = environments(some_data(), {"as it is": lambda x, s, g: x, "black": lambda x, s, g: x * 0})
    black = torch.from_numpy(laid.train.column("environment") == "black")
    assert torch.equal(laid.train.x.flatten(1).eq(0).all(1), black)


# -- bad input --------------------------------------------------------------------------------------------


def test_an_unknown_environment_is_named_with_the_near_miss():
    with pytest.raises(UsageError, match=r"'nose'.*did you mean 'noise'"):
        environments(some_data(), ["clean", "nose"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "at least one environment"),
        ({}, "at least one environment"),
        (["fog", "fog"], "once: got fog, fog"),
    ],
    ids=str,
)
def test_no_environment_or_one_twice_is_refused(names, words):
    with pytest.raises(UsageError, match=words):
        environments(some_data(), names)


@pytest.mark.parametrize("severity", [0, 6, 2.5, "high", True])
def test_a_severity_that_is_none_is_refused(severity):
    with pytest.raises(UsageError, match="severity is a whole number from 1"):
        environments(some_data(), severity=severity)
    with pytest.raises(UsageError, match="severity is a whole number from 1"):
        noise(pictures(2), severity, generator(0))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(60, 8), r"shape \(\d+, 8\).*channels, height, width"),
        (torch.rand(60, 8, 8, 3), r"8 channels.*1 or 3, at dim 1"),
        (torch.randint(0, 9, (60, 1, 8, 8)), "x is torch.int64.*uint8"),
        (torch.rand(60, 1, 8, 8) > 0.5, "x is torch.bool.*uint8"),
        (torch.randn(60, 3, 8, 8), "values from -.*before they are normalised"),
        (255 * torch.rand(60, 3, 8, 8), "values from .*before they are normalised"),
        (torch.rand(60, 3, 1, 8), "1×8"),
    ],
    ids=["table", "channels last", "int64", "bool", "normalised", "float 255", "one row"],
)
def test_what_is_no_image_is_named(x, words):
    with pytest.raises(DataError, match=words):
        environments(Data.of(x, torch.zeros(60).long()))


def test_environments_are_laid_once():
    with pytest.raises(DataError, match="column 'environment' already"):
        environments(environments(some_data()))


def test_a_corruption_of_ones_own_that_changes_the_shape_is_named():
    with pytest.raises(DataError, match=r"environment 'half' made .*keeps shape and dtype"):
        environments(some_data(), {"half": lambda x, s, g: x[:, :, ::2]})


# -- experiments ------------------------------------------------------------------------------------------


def test_corruptions_are_the_digits_of_digits_under_four_environments():
    data, plain = EXPERIMENT.load(None, False), DIGITS.load(None, False)
    assert EXPERIMENT.partition(data).names == ENVIRONMENTS
    for split in SPLITS:
        clean = torch.from_numpy(data.split(split).column("environment") == "clean")
        assert torch.equal(data.split(split).x[clean], plain.split(split).x[clean])
        assert torch.equal(data.split(split).y, plain.split(split).y)
    assert EXPERIMENT.backbone(generator(0))(data.inputs("test", torch.arange(5))).shape == (5, 10)


def test_corruptions_take_no_data_and_say_what_does():
    with pytest.raises(UsageError, match="cifar10_corruptions"):
        EXPERIMENT.load("somewhere", False)


def test_cifar10_corruptions_lay_environments_over_cifar10(monkeypatch):
    asked = []

    def load(source, augment):
        asked.append((source, augment))
        data = Data.of(pictures(80, side=32), torch.arange(80) % 10)
        return dataclasses.replace(data, prepare=cifar10.NORMALISE)

    monkeypatch.setattr(experiments.cifar10, "load", load)
    data = CIFAR10_CORRUPTIONS.load("folder", True)
    assert asked == [("folder", True)]
    assert CIFAR10_CORRUPTIONS.partition(data).sizes("train") == dict.fromkeys(ENVIRONMENTS, 14)
    backbone = CIFAR10_CORRUPTIONS.backbone(generator(0)).eval()
    assert backbone(data.inputs("train", torch.arange(2))).shape == (2, 10)


def test_cifar10_corruptions_name_a_missing_folder():
    with pytest.raises(DataError, match="there is no folder /no/such"):
        CIFAR10_CORRUPTIONS.load("/no/such", False)
