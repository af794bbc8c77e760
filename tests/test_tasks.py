"""Several tasks on one network: permuted MNIST, several data sets, several questions about one image."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tombola._utils.errors import DataError, UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Split
from tombola.lab.experiments import (
    ATTRIBUTES,
    CIFAR100_SPLIT,
    CIFAR100_SUPERCLASS,
    PERMUTED_MNIST,
    TASKS_AT_ONCE,
    attributes,
    permuted_mnist,
    tasks,
)
from tombola.lab.experiments.attributes import COLOURS, LIFELESS, asked, colour_of
from tombola.lab.experiments.cifar100 import NAMES, SUPERCLASSES
from tombola.masks.prunable import scope
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.runs.cache import StageCache

WORLDS = [PERMUTED_MNIST, TASKS_AT_ONCE, ATTRIBUTES, CIFAR100_SPLIT, CIFAR100_SUPERCLASS]
ALL = pytest.mark.parametrize("experiment", WORLDS, ids=lambda e: e.name)
DATA = Path(__file__).parents[2] / "shared" / "data"


def write(folder, side, label, classes, each=6, start=0):
    """A data set of random images as Parquet, ``each`` of a class to train on and two to test."""
    folder.mkdir()
    for split, count in (("train", each), ("test", 2)):
        rng, pictures, labels = np.random.default_rng([start, count]), [], [*range(classes)] * count
        for _ in labels:
            buffer = io.BytesIO()
            picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(picture).save(buffer, "PNG")
            pictures.append({"bytes": buffer.getvalue(), "path": None})
        parquet.write_table(pyarrow.table({"img": pictures, label: labels}), folder / f"{split}.parquet")
    return str(folder)


def stand_in(experiment):
    """The one item of an experiment without data."""
    (item,) = experiment.load(None, False).items()
    return item


def each_once(splits):
    """Whether no input of a split is in another one."""
    held = [set(map(tuple, x.flatten(1).tolist())) for x in splits]
    return all(not a & b for i, a in enumerate(held) for b in held[:i])


@ALL
def test_what_stands_in_says_so_and_has_all_subsets_in_every_half(experiment):
    name, data = stand_in(experiment)
    assert name.startswith("digits-not-")
    assert name in experiment.data
    K = len(experiment.partition(data))
    assert len(experiment.partition(data.tuning())) == K
    with pytest.raises(UsageError, match="no augmentation"):
        experiment.load(None, True)


@ALL
def test_every_ticket_has_an_output_layer_that_is_counted(experiment):
    _, data = stand_in(experiment)
    small = dataclasses.replace(data, test=data.test.take(slice(0, 200)))
    settings = dataclasses.replace(
        experiment.preset(None)[1].settings, sparsity=(0.8,), schedule="one_shot", T=1, steps=1, rewind=1
    )
    net, partition = experiment.backbone(generator(0, "theta0")), experiment.partition(small)
    pipeline = Pipeline(net, experiment.objective, small, partition, settings, 0, StageCache())
    head = sum(p.numel() for p in net.classifier.parameters())
    for method in ("rtl", "same_mask", "imp_per_subset"):
        outcome = run_method(pipeline, method, 0.8)
        assert outcome["private"] >= len(partition) * head
    told = run_method(pipeline, "imp_context", 0.8)
    assert told["private"] < outcome["private"]  # one output layer
    assert 0 <= told["accuracy"] <= 1


# -- permuted MNIST ---------------------------------------------------------------------------------------


def test_permuted_mnist_is_the_same_images_in_ten_orders(tmp_path, monkeypatch):
    monkeypatch.setattr(permuted_mnist, "VALIDATION", 20)
    source = write(tmp_path / "mnist", 28, "label", 10)
    data = PERMUTED_MNIST.load(source, False)
    assert [len(data.split(s)) for s in SPLITS] == [400, 200, 200]
    images = data.train.x.view(40, 10, 784)
    assert torch.equal(images.sort(2).values, images[:, :1].sort(2).values.expand(-1, 10, -1))
    assert all(not torch.equal(images[:, 0], images[:, k]) for k in range(1, 10))
    assert each_once([data.split(s).x.sort(1).values for s in SPLITS])
    assert PERMUTED_MNIST.partition(data).names == tuple(f"order {k}" for k in range(10))
    x = data.inputs("train", torch.arange(4))
    assert x.dtype == torch.float32
    assert PERMUTED_MNIST.backbone(generator(0))(x).shape == (4, 10)


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="the files of MNIST are not there")
def test_the_real_mnist_has_55000_images_to_train_on_in_each_order():
    data = PERMUTED_MNIST.load(str(DATA / "mnist"), False)
    assert [len(data.split(s)) for s in SPLITS] == [550_000, 50_000, 100_000]
    x = data.inputs("test", torch.arange(0, 100_000, 50))
    assert abs(float(x.mean())) < 0.03
    assert abs(float(x.std()) - 1) < 0.03


# -- tasks ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "VALIDATION", 14)
    for i, (name, task) in enumerate(tasks.TASKS.items()):
        write(tmp_path / name, task.side, task.label, len(task.names), start=i)
    return tmp_path


def test_tasks_bring_every_data_set_to_one_size_and_keep_splits_apart(folder):
    data = TASKS_AT_ONCE.load(str(folder), False)
    partition = TASKS_AT_ONCE.partition(data)
    assert partition.names == ("cifar10", "cifar100", "digits", "mnist", "pacs")
    sizes = {"cifar10": 46, "cifar100": 106, "digits": 1078, "mnist": 46, "pacs": 28}
    assert partition.sizes("train") == sizes
    assert data.train.x.shape == (sum(sizes.values()), 3, 32, 32)
    assert data.train.x.dtype == torch.uint8
    assert each_once([data.split(s).x for s in SPLITS])
    assert len(TASKS_AT_ONCE.partition(data.tuning())) == 5


def test_no_task_has_more_images_than_the_most(folder, monkeypatch):
    monkeypatch.setattr(tasks, "TRAIN", 30)
    monkeypatch.setattr(tasks, "TEST", 9)
    data = TASKS_AT_ONCE.load(str(folder), False)
    sizes = TASKS_AT_ONCE.partition(data).sizes
    assert sizes("train")["cifar100"] == sizes("train")["cifar10"] == 30
    assert sizes("test")["cifar100"] == sizes("test")["mnist"] == 9


def test_a_task_that_is_not_there_is_named(folder):
    (folder / "pacs").rename(folder / "elsewhere")
    with pytest.raises(DataError, match=r"no folder .*pacs"):
        TASKS_AT_ONCE.load(str(folder), False)


def test_images_are_halved_by_means_and_framed_in_black():
    x = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert tasks.halved(x).tolist() == [[[[2, 4], [10, 12]]]]  # of 2.5, 4.5, ...: to even
    framed = tasks.framed(torch.ones(1, 3, 28, 28, dtype=torch.uint8))
    assert framed.shape == (1, 3, 32, 32)
    assert int(framed.sum()) == 3 * 28 * 28


# -- attributes -------------------------------------------------------------------------------------------


def test_attributes_ask_four_questions_about_every_image(tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "VALIDATION", 200)
    data = ATTRIBUTES.load(write(tmp_path / "cifar100", 32, "fine_label", 100), False)
    assert [len(data.split(s)) for s in SPLITS] == [1600, 800, 800]
    partition = ATTRIBUTES.partition(data)
    assert partition.names == ("cluster", "colour", "living", "superclass")
    assert each_once([data.split(s).x for s in SPLITS])
    images = data.train.x.view(400, 4, -1)
    assert torch.equal(images, images[:, :1].expand(-1, 4, -1))
    y = {name: data.train.y[data.train.column("question") == name] for name in partition.names}
    assert torch.equal(y["superclass"].bincount(minlength=20) > 0, torch.ones(20, dtype=torch.bool))
    lifeless = torch.tensor([name in LIFELESS for name in SUPERCLASSES])
    assert torch.equal(y["living"], (~lifeless[y["superclass"]]).long())
    assert ATTRIBUTES.backbone(generator(0))(data.inputs("train", torch.arange(2))).shape == (2, 20)
    assert scope(ATTRIBUTES.backbone(generator(0))).size == 60_930


def test_classes_have_the_answers_of_their_groups():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    found = attributes.answers(Split(x, torch.tensor([NAMES.index("wolf"), NAMES.index("rocket")])))
    assert [[*SUPERCLASSES][k] for k in found["superclass"]] == ["large_carnivores", "vehicles_2"]
    assert found["living"].tolist() == [1, 0]
    assert [[*attributes.CLUSTERS][k] for k in found["cluster"]] == ["mammals", "vehicles"]
    assert [COLOURS[k] for k in found["colour"]] == ["grey", "grey"]


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3))
def test_a_turn_of_the_channels_turns_the_colour(rgb):
    x = torch.tensor([rgb, rgb[-1:] + rgb[:-1]], dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2)
    low, _, high = sorted(rgb)
    first, turned = colour_of(x).tolist()
    if high - low < 25:
        assert first == turned == 0
    elif high - low > 26 and 2 * sorted(rgb)[1] != high + low:  # neither nearly grey nor between two colours
        assert turned == (first - 1 + 2) % 6 + 1


def test_the_colour_is_that_of_most_of_the_chroma():
    x = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    x[0, 0, 0, :3], x[0, 2, 0, 3] = 60, 255  # three dark red pixels, one bright blue
    assert COLOURS[int(colour_of(x))] == "blue"
    x[0, 0, 0, :3] = 100
    assert COLOURS[int(colour_of(x))] == "red"


@given(S=st.integers(1, 20), Q=st.integers(1, 5))
def test_asked_repeats_samples_with_their_answers(S, Q):
    answers = {f"question {q}": torch.arange(S) + 100 * q for q in range(Q)}
    split = asked(torch.arange(S)[:, None], answers)
    for q, name in enumerate(answers):
        mine = torch.from_numpy(split.columns["question"] == name)
        assert torch.equal(split.x[mine, 0], torch.arange(S))
        assert torch.equal(split.y[mine], torch.arange(S) + 100 * q)


@pytest.mark.skipif(not (DATA / "cifar100").is_dir(), reason="the files of CIFAR-100 are not there")
def test_colours_of_the_real_cifar100_are_all_there():
    data = ATTRIBUTES.load(str(DATA / "cifar100"), False)
    y = data.train.y[data.train.column("question") == "colour"]
    assert len(y) == 10_000
    assert int(y.bincount(minlength=7).min()) > 50
    names = json.loads((DATA / "cifar100" / "class_names.json").read_text())
    assert names["fine_label"] == NAMES
