"""CIFAR-100: the tables of classes, the data and their groups, the stand-in, the tasks and the figures."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from tombola._utils.errors import DataError, PartitionError, UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data, Split
from tombola.lab.experiments import cifar100, experiment
from tombola.lab.experiments.cifar100 import (
    CLUSTERS,
    DIGITS,
    NAMES,
    PAPER,
    STAND_IN,
    SUPERCLASSES,
    by_cluster_of_several,
    group_of,
    with_groups,
)
from tombola.lab.launch import Order
from tombola.lab.report.rows import rows
from tombola.masks.prunable import scope
from tombola.runs.log import read_config

SHARED = Path(__file__).parents[2] / "shared" / "data" / "cifar100"
there = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the CIFAR-100 files are not there: {SHARED}")
EXPERIMENTS = ("cifar100", "cifar100_within", "cifar100_superclasses", "cifar100_text")
OUTPUTS = {"cifar100": 8, "cifar100_within": 100, "cifar100_superclasses": 20, "cifar100_text": 100}


def write_parquet(folder, per_class):
    rng = np.random.default_rng(0)
    coarse = group_of(NAMES, SUPERCLASSES)
    for split in ("train", "test"):
        fine = np.repeat(np.arange(100), per_class).tolist()
        pictures = []
        for _ in fine:
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
            pictures.append({"bytes": buffer.getvalue(), "path": None})
        numbers = [sorted(SUPERCLASSES).index(coarse[y]) for y in fine]
        table = pyarrow.table({"img": pictures, "fine_label": fine, "coarse_label": numbers})
        parquet.write_table(table, folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar100")
    write_parquet(folder, 4)
    return str(folder)


@pytest.fixture(scope="module")
def digits():
    return experiment("cifar100").load(None, False)[STAND_IN]


# -- tables -----------------------------------------------------------------------------------------------


def test_the_tables_hold_every_class_once():
    assert len(NAMES) == len(set(NAMES)) == 100
    for groups, count in ((SUPERCLASSES, 20), (CLUSTERS, 8)):
        assert len(groups) == count
        assert sorted(" ".join(groups.values()).split()) == NAMES
    assert {len(members.split()) for members in SUPERCLASSES.values()} == {5}


def test_clusters_keep_superclasses_whole_but_for_the_invertebrates():
    cluster = dict(zip(NAMES, group_of(NAMES, CLUSTERS), strict=True))
    spread = {s: {cluster[name] for name in members.split()} for s, members in SUPERCLASSES.items()}
    assert [s for s, clusters in spread.items() if len(clusters) > 1] == ["non-insect_invertebrates"]


@there
def test_the_tables_are_those_of_the_real_data():
    real = json.loads((SHARED / "class_names.json").read_text())
    assert real["fine_label"] == NAMES
    coarse = [real["coarse_label"][i] for i in real["fine_to_coarse"]]
    assert coarse == group_of(NAMES, SUPERCLASSES)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": "ant bee", "b": "cta"}, "did you mean 'cat'"),
        ({"a": "ant bee", "b": "cat ant"}, "'ant' is in two groups"),
        ({"a": "ant", "b": "cat"}, "'bee' is in no group"),
    ],
)
def test_a_table_with_unknown_repeated_or_missing_classes_is_refused(groups, words):
    with pytest.raises(DataError, match=words):
        group_of(["ant", "bee", "cat"], groups)


# -- data -------------------------------------------------------------------------------------------------


def test_images_are_read_with_their_groups_and_the_validation_split_is_fixed(source, monkeypatch):
    monkeypatch.setattr(cifar100, "VALIDATION", 100)
    first, second = (experiment("cifar100").load(source, augment) for augment in (False, True))
    assert [len(first.split(s)) for s in ("train", "validation", "test")] == [300, 100, 400]
    for split in ("train", "validation", "test"):
        part = first.split(split)
        assert torch.equal(part.x, second.split(split).x)
        assert part.column("name").tolist() == [NAMES[y] for y in part.y]
        assert part.column("superclass").tolist() == [group_of(NAMES, SUPERCLASSES)[y] for y in part.y]
        assert part.column("cluster").tolist() == [group_of(NAMES, CLUSTERS)[y] for y in part.y]
    assert first.augment is None
    assert second.augment is not None


def test_a_folder_per_class_is_read_too(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar100, "VALIDATION", 1)
    for split in ("train", "test"):
        for name in ("apple", "worm"):
            directory = tmp_path / split / name
            directory.mkdir(parents=True)
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(directory / "0.png")
    data = experiment("cifar100").load(str(tmp_path), False)
    assert data.test.column("cluster").tolist() == ["fruits", "reptiles and insects"]


def test_too_few_images_and_unknown_classes_are_named(source, tmp_path):
    with pytest.raises(DataError, match="400 training images; more than 5000"):
        experiment("cifar100").load(source, False)
    (tmp_path / "train" / "appel").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="did you mean 'apple'"):
        experiment("cifar100").load(str(tmp_path), False)


@pytest.mark.parametrize("name", EXPERIMENTS[:3])
def test_the_subsets_are_those_of_the_tables(name, source, monkeypatch):
    monkeypatch.setattr(cifar100, "VALIDATION", 100)
    chosen = experiment(name)
    data = chosen.load(source, False)
    groups = SUPERCLASSES if name.endswith("superclasses") else CLUSTERS
    assert set(chosen.partition(data).names) == set(groups)
    backbone = chosen.backbone(generator(0)).eval()
    assert backbone(data.inputs("train", torch.arange(4))).shape == (4, OUTPUTS[name])
    assert scope(backbone).size == 125_832


@there
def test_the_real_cifar100_has_45000_5000_and_10000_images(few_pictures):
    data = experiment("cifar100").load(str(SHARED), False)
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [45_000, 5_000, 10_000]
    assert (data.train.y.bincount() + data.validation.y.bincount()).tolist() == [500] * 100
    assert data.test.y.bincount().tolist() == [100] * 100
    x = data.inputs("train", data.train.x.flatten(1).any(1).nonzero()[:, 0])
    assert len(x) == 2_000
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=0.03, rtol=0)
    sizes = experiment("cifar100").partition(data).sizes("test")
    assert sizes["fruits"] == sizes["flowers"] == 500
    assert sizes["mammals"] == sizes["people and objects"] == 2_000


# -- the stand-in -----------------------------------------------------------------------------------------


def test_without_data_digits_stand_in_and_are_called_so(digits):
    assert "not-cifar100" in STAND_IN
    assert [len(digits.split(s)) for s in ("train", "validation", "test")] == [1078, 270, 449]
    assert digits.train.x.shape == (1078, 3, 32, 32)
    assert digits.train.x.dtype == torch.uint8
    assert int(digits.train.x.max()) == 255
    assert digits.test.column("name").tolist() == [DIGITS[y] for y in digits.test.y]
    for name in EXPERIMENTS:
        assert STAND_IN in experiment(name).data
        assert list(experiment(name).load(None, False)) == [STAND_IN]


def test_the_stand_in_has_clusters_that_say_digits(digits):
    assert all("digits" in name for name in experiment("cifar100").partition(digits).names)
    assert len(experiment("cifar100_superclasses").partition(digits)) == 5
    assert len(experiment("cifar100_within").partition(digits)) == 3


def test_the_stand_in_has_no_augmentation():
    with pytest.raises(UsageError, match="no augmentation"):
        experiment("cifar100").load(None, True)


# -- tasks ------------------------------------------------------------------------------------------------


def test_a_cluster_of_one_class_has_nothing_to_answer_within():
    def split(count):
        x, y = torch.zeros(count, 3), torch.arange(count) % 3
        return with_groups(
            Split(x, y), ["ant", "bee", "cat"], {"all": "ant bee cat"}, {"i": "ant bee", "p": "cat"}
        )

    data = Data(split(30), split(9), split(9))
    with pytest.raises(PartitionError, match="cluster 'p' holds a single class in the train split"):
        by_cluster_of_several(data)


def test_names_that_mean_alike_make_the_subsets_of_the_text_experiment(digits, monkeypatch):
    vectors = {name: [10.0 * (DIGITS.index(name) >= 5), DIGITS.index(name) % 5] for name in DIGITS}
    monkeypatch.setattr(
        "tombola.data.partition.clusters.sentence_encoder", lambda: lambda texts: [vectors[t] for t in texts]
    )
    monkeypatch.setattr("tombola.data.partition.clusters._umap", lambda points, *_: points)
    found = experiment("cifar100_text").partition(digits)
    low = next(k for k, name in enumerate(found.names) if "two" in name)
    assert len(found) == 2
    assert torch.equal(found.members["test"][:, low], digits.test.y < 5)


def test_one_is_told_the_context_where_it_is_not_the_answer():
    assert "imp_context" in experiment("cifar100_within").methods()
    assert "imp_context" not in experiment("cifar100").methods()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_presets_are_those_of_cifar10_with_the_papers_batch(name):
    presets = experiment(name).presets
    assert list(presets) == ["quick", "paper", "best"]
    for preset in presets.values():
        assert preset.settings.search.batch_size == preset.settings.train.batch_size == 256
        assert preset.settings.sparsity == (0.25, 0.5, 0.75)
    assert presets["paper"].settings.train.lr == 1e-4
    assert presets["paper"].settings.rewind == 0


def test_the_papers_figures_are_those_of_its_table_1():
    assert PAPER["rtl", 0.25] == {
        "balanced_accuracy": 0.765,
        "precision": 0.298,
        "recall": 0.764,
        "union": 108e3,
    }
    assert PAPER["imp", 0.75]["recall"] == 0.463
    assert PAPER["imp_per_subset", 0.5]["union"] == 629_000
    assert len(PAPER) == 9
    assert experiment("cifar100").paper is PAPER
    assert not experiment("cifar100_within").paper


def test_the_papers_single_model_row_is_impossible_as_printed():
    for sparsity in (0.25, 0.75):
        row = PAPER["imp", sparsity]
        assert 2 * row["balanced_accuracy"] - row["recall"] > 1


@pytest.mark.parametrize(
    ("name", "methods", "metric"),
    [
        ("cifar100", ["rtl", "imp"], "balanced_accuracy"),
        ("cifar100_within", ["rtl", "union_size_imp", "imp_context"], "accuracy"),
    ],
)
def test_it_runs_on_the_stand_in_from_end_to_end(name, methods, metric, tmp_path):
    chosen = experiment(name)
    changes = ["T=1", "steps=1", "rewind=1", "statistics=1", "sparsity=[0.5]"]
    settings = chosen.presets["quick"].settings.changed(
        [*changes, "search.batch_size=8", "train.batch_size=8"]
    )
    order = Order(chosen, "quick", settings, False, None, methods=methods)
    [(item, data)] = order.load().items()
    words = list(order.run(data, 0, tmp_path / "run", item=item))
    assert "equal budgets" in words[-1]
    assert read_config(tmp_path / "run")["item"] == STAND_IN
    found = {r["method"]: r["mean"] for r in rows([tmp_path / "run"]) if r["metric"] == metric}
    assert set(found) == set(methods)
    assert all(0 <= value <= 1 for value in found.values())
