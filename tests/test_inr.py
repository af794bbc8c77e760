"""Pictures as networks: regions, data, PSNR, the experiment from end to end, and its pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio

from tombola._utils.errors import DataError, RunError, UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.lab.experiments import INR, INR_SIREN, inr
from tombola.lab.experiments.experiment import Finished, Preset
from tombola.lab.experiments.inr_data import as_image, load, reduced, regions, segmented
from tombola.lab.experiments.pictures import outputs
from tombola.lab.launch import Order
from tombola.objectives.reconstruction import Reconstruction, psnr, squared
from tombola.runs.log import read_records
from tombola.settings import TrainConfig

REAL = Path(__file__).parents[2] / "shared" / "data" / "inr_regions"


# -- PSNR -------------------------------------------------------------------------------------------------


@pytest.fixture
def shares():
    """300 samples with three values each, in two subsets of 1/4 and 3/4."""
    y = torch.rand(300, 3, generator=generator(0, "y"))
    part = np.where(np.arange(300) % 4 == 0, "small", "large")
    data = Data.of(torch.rand(300, 2), y, {"region": part}, validation=0.2, test=0.3)
    return data, INR.partition(data)


@pytest.mark.parametrize("single", [False, True])
def test_psnr_is_that_of_torchmetrics_over_all_and_per_region(shares, single):
    data, partition = shares
    y, members = data.test.y, partition.members["test"]
    g = generator(0, "outputs")
    outputs = [y + s * torch.randn(y.shape, generator=g) for s in (0.05, 0.4)]
    objective = Reconstruction().single(partition) if single else Reconstruction()
    judged = partition.whole() if single else partition
    found = objective.evaluate(lambda split, k, index: outputs[k][index], data, judged)
    used = [outputs[0].clamp(0, 1), outputs[0 if single else 1].clamp(0, 1)]
    own = torch.where(members[:, :1], used[0], used[1])
    each = [peak_signal_noise_ratio(own[m], y[m], data_range=1.0) for m in members.T]
    means = torch.stack([data.train.y[m].mean(0) for m in partition.members["train"].T])
    floor = torch.where(members[:, :1], means[0], means[1])
    expected = {
        ("psnr", ""): peak_signal_noise_ratio(own, y, data_range=1.0),
        ("psnr", "large"): each[0],
        ("psnr", "small"): each[1],
        ("psnr_region", ""): (each[0] + each[1]) / 2,
        ("psnr_floor", ""): peak_signal_noise_ratio(floor, y, data_range=1.0),
    }
    assert partition.names == ("large", "small")
    assert {(m.name, m.ticket): m.value for m in found} == {
        key: pytest.approx(float(value), abs=1e-4) for key, value in expected.items()
    }


def test_what_is_exact_has_100_decibels_and_not_infinitely_many():
    assert psnr(squared(torch.ones(4, 3), torch.ones(4, 3))) == 100
    assert psnr(torch.full((8,), 0.01)) == pytest.approx(20)


def test_the_loss_is_the_mean_squared_error(shares):
    data, partition = shares
    index = torch.arange(6)
    targets = Reconstruction().targets(data, partition, index, 0)
    loss = Reconstruction().loss(targets + 0.5, targets, 0, torch.empty(0))
    assert float(loss) == pytest.approx(0.25)
    with pytest.raises(DataError, match=r"outputs of shape \(6, 1\), the targets have \(6, 3\)"):
        Reconstruction().loss(targets[:, :1], targets, 0, torch.empty(0))


@pytest.mark.parametrize("y", [torch.arange(20) % 2, 255 * torch.rand(20, 3), torch.rand(20, 3) - 1])
def test_targets_that_are_no_values_from_0_to_1_are_an_error(y):
    data = Data.of(torch.rand(20, 2), y, {"region": ["a", "b"] * 10})
    with pytest.raises(DataError, match="float targets from 0 to 1: divide bytes by 255"):
        Reconstruction().targets(data, INR.partition(data), torch.arange(8), 0)


# -- regions ----------------------------------------------------------------------------------------------


def quarters(side=20):
    """Four quarters numbered 1 to 4."""
    half = np.arange(side) >= side // 2
    return 1 + half[None, :] + 2 * half[:, None]


NAMES = {0: "none", 1: "sky", 2: "sea", 3: "sand", 4: "sky"}


def test_classes_of_one_name_are_one_region():
    found = regions(quarters(), NAMES)
    assert {name: int((found == name).sum()) for name in np.unique(found)} == {
        "sky": 200,
        "sea": 100,
        "sand": 100,
    }


def test_ignored_pixels_go_to_the_nearest_region():
    labels = quarters()
    labels[3:8, 7:10] = 0  # inside the first quarter, at the border of the second
    found = regions(labels, NAMES, frozenset({0}))
    assert (found[4:7, 9] == "sea").all()  # one pixel from the sea, two from the sky
    assert (found[3:8, 7] == "sky").all()
    assert set(np.unique(found[:10, :10])) == {"sky", "sea"}
    assert "none" in regions(labels, NAMES)


@pytest.mark.parametrize("count", [1, 7])
def test_a_region_of_few_pixels_is_merged(count):
    labels = quarters()
    labels[2, 2 : 2 + count] = 9
    found = regions(labels, NAMES)
    assert set(np.unique(found)) == {"sky", "sea", "sand"}
    assert (found[2, 2:9] == "sky").all()


def test_stray_pieces_are_merged_and_the_rest_of_their_region_stays():
    labels = quarters()
    labels[1, 1] = 3
    found = regions(labels, NAMES)
    assert found[1, 1] == "sky"
    assert int((found == "sand").sum()) == 100


def test_a_class_without_a_name_is_called_by_its_number():
    assert set(np.unique(regions(quarters(), {1: "sky"}))) == {"sky", "class 2", "class 3", "class 4"}


def test_where_all_regions_are_small_the_largest_stays():
    labels = np.arange(100).repeat(4).reshape(20, 20)
    labels[19] = 99
    assert set(np.unique(regions(labels, {}))) == {"class 99"}


def test_no_class_at_all_is_an_error():
    with pytest.raises(DataError, match="no class at all"):
        regions(np.zeros((4, 4), int), {}, frozenset({0}))


def test_reducing_takes_the_mean_colour_and_the_most_frequent_label():
    photograph = np.zeros((4, 8, 3), np.uint8)
    photograph[:2, :2] = [[[100, 0, 0], [200, 0, 0]], [[100, 0, 0], [200, 0, 0]]]
    labels = np.full((4, 8), 5)
    labels[0, :2], labels[1, 0] = 7, 9
    labels[2, 2:4], labels[3, 2] = 7, 7
    small, reduced_labels = reduced(photograph, labels, 4)
    assert small.shape == (2, 4, 3)
    assert small[0, 0].tolist() == [150, 0, 0]
    assert reduced_labels.tolist() == [[7, 5, 5, 5], [5, 7, 5, 5]]
    assert reduced(photograph, labels, 8)[1] is labels


def test_segmentation_is_the_same_every_time_and_has_solid_areas():
    photograph = np.zeros((60, 90, 3), np.uint8)
    photograph[:, 45:] = [250, 120, 0]
    first, second = segmented(photograph), segmented(photograph)
    assert np.array_equal(first[0], second[0])
    assert first[0].shape == (60, 90)
    left, right = np.unique(first[0][:, :40]), np.unique(first[0][:, 50:])
    assert not set(left) & set(right)
    assert set(first[1]) >= {*left.tolist(), *right.tolist()}


# -- data -------------------------------------------------------------------------------------------------


def write_folder(folder, labels=None, name="photo", suffix=".png", mode=None):
    """A photograph of 20×20 (colour by quarter) with its label map; returns the folder."""
    labels = quarters() if labels is None else labels
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 250, 250]], np.uint8)
    for sub in ("images", "labels"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(colours[quarters()])
    (picture if mode is None else picture.convert(mode)).save(folder / "images" / f"{name}{suffix}")
    Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / f"{name}.png")
    (folder / "class_names.json").write_text(json.dumps({str(k): v for k, v in NAMES.items()}))
    return folder


def test_a_folder_of_photographs_and_label_maps_is_read(tmp_path):
    write_folder(tmp_path, name="b")
    write_folder(tmp_path, name="a")
    found = load(str(tmp_path), False)
    assert list(found) == ["a", "b"]
    data = found["a"]
    assert data.train is data.validation is data.test
    assert data.train.x.shape == (400, 2)
    assert float(data.train.x.min()) == -1
    assert float(data.train.x.max()) == 1
    assert INR.partition(data).sizes() == {"sand": 100, "sea": 100, "sky": 200}
    image = as_image(data.train.x, data.train.y)
    assert image.shape == (20, 20, 3)
    assert image[0, -1].tolist() == [0, 1, 0]  # top right: the second quarter
    names = as_image(data.train.x, data.train.column("region"))
    assert names[0, 0] == names[-1, -1] == "sky"
    assert names[-1, 0] == "sand"


def test_either_half_of_the_pixels_holds_every_region(tmp_path):
    data = load(str(write_folder(tmp_path)), False)["photo"].tuning()
    sizes = INR.partition(data).sizes("test")
    assert sizes == {"sand": 50, "sea": 50, "sky": 100}


def test_a_manifest_gives_the_order_and_the_numbering(tmp_path):
    write_folder(tmp_path, name="b")
    labels = quarters()
    labels[:5, :5] = 0
    write_folder(tmp_path, labels, name="a")
    rows = [
        {"image": f"images/{n}.png", "label": f"labels/{n}.png", "classes": "ade150", "width": 20}
        for n in "ba"
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    (tmp_path / "class_names.json").write_text(json.dumps({"ade150": {"1": "wall", "2": "sea"}}))
    found = load(str(tmp_path), False)
    assert list(found) == ["b", "a"]
    assert INR.partition(found["a"]).names == ("class 3", "class 4", "sea", "wall")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_photographs_of_other_modes_are_read_as_rgb(tmp_path, mode):
    data = load(str(write_folder(tmp_path, mode=mode)), False)["photo"]
    assert data.train.y.shape == (400, 3)


def test_the_default_are_two_photographs_inside_scikit_learn():
    first, second = load(None, False), load(None, False)
    assert list(first) == ["china", "flower"]
    for name, data in first.items():
        assert torch.equal(data.train.y, second[name].train.y)
        sizes = INR.partition(data).sizes()
        assert 4 <= len(sizes) <= 6
        assert sum(sizes.values()) == len(data.train) == 85 * 128
        assert min(sizes.values()) >= 0.02 * len(data.train)


def test_larger_photographs_are_reduced(tmp_path):
    data = load(str(write_folder(tmp_path)), False, side=10)["photo"]
    assert as_image(data.train.x, data.train.y).shape == (10, 10, 3)
    assert INR.partition(data).sizes() == {"sand": 25, "sea": 25, "sky": 50}


def broken(tmp_path, how):
    folder = write_folder(tmp_path)
    label, photograph = folder / "labels" / "photo.png", folder / "images" / "photo.png"
    if how == "no label":
        label.unlink()
    elif how == "no images":
        photograph.unlink()
        photograph.parent.rmdir()
    elif how == "empty":
        photograph.unlink()
    elif how == "damaged":
        photograph.write_bytes(photograph.read_bytes()[:60])
    elif how == "other size":
        Image.fromarray(quarters(10).astype(np.uint8)).save(label)
    elif how == "colour labels":
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(label)
    elif how == "one region":
        Image.fromarray(np.ones((20, 20), np.uint8)).save(label)
    elif how == "nothing labelled":
        Image.fromarray(np.full((20, 20), 255, np.uint8)).save(label)
    elif how == "twins":
        Image.open(photograph).save(folder / "images" / "photo.bmp")
    elif how == "manifest":
        (folder / "manifest.json").write_text('{"a": 1}')
    elif how == "no JSON":
        (folder / "class_names.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no label", r"labels/photo.png is missing: every photograph needs its label map"),
        ("no images", r"needs the folders images/ and labels/"),
        ("empty", r"holds no photographs"),
        ("damaged", r"images/photo.png is no image that can be read"),
        ("other size", r"photo.png is 10×10, its photograph is 20×20: they need one size"),
        ("colour labels", r"must have one channel of class numbers"),
        ("one region", r"photo has a single region, 'sky'.*take it out"),
        ("nothing labelled", r"photo: the label map holds no class at all"),
        ("twins", r"two photographs called photo: rename"),
        ("manifest", r"manifest.json must be a list of objects with image and label"),
        ("no JSON", r"class_names.json is no JSON"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, how, message):
    with pytest.raises(DataError, match=message):
        load(str(broken(tmp_path, how)), False)


def test_augmentation_and_folders_that_do_not_exist_are_errors(tmp_path):
    with pytest.raises(UsageError, match="no augmentation"):
        load(None, True)
    with pytest.raises(DataError, match="needs the folders"):
        load(str(tmp_path / "nowhere"), False)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the labelled photographs are not there: {REAL}")
def test_the_real_photographs_have_several_solid_regions_each():
    found = load(str(REAL), False)
    assert len(found) == 25
    assert list(found)[:2] == ["ade_val_00000001", "ade_val_00000002"]
    for data in found.values():
        sizes = INR.partition(data).sizes()
        assert 4 <= len(sizes) <= 13
        assert min(sizes.values()) >= 0.02 * 0.9 * len(data.train)
        assert not {"other", "unlabeled", "unlabelled"} & set(sizes)


# -- the experiment ---------------------------------------------------------------------------------------


def test_the_papers_figures_are_those_of_its_table_2():
    assert INR.paper["rtl", 0.5] == {"psnr": 17.25, "union": 36_500}
    assert INR.paper["imp_context", 0.75] == {"psnr": 12.69, "union": 13_500}
    assert ("imp", 0.5) not in INR.paper  # the paper's single model is told the class


@pytest.mark.parametrize("experiment", [INR, INR_SIREN])
def test_every_preset_prunes_the_papers_weights(experiment):
    from tombola.masks.prunable import scope

    for preset in experiment.presets.values():
        assert scope(experiment.backbone(generator(0)), preset.settings.include).size == 53_888


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of a tiny picture, with two methods at one sparsity, and another at a second one."""
    folder = tmp_path_factory.mktemp("inr")
    source = write_folder(folder / "data")
    config = TrainConfig(lr=1e-2, batch_size=32)
    _, preset = INR.preset("quick")
    settings = replace(preset.settings, sparsity=(0.5, 0.75), T=2, steps=15, search=config, train=config)
    tiny = replace(INR, presets={"quick": Preset(settings, "")})
    made = []
    for seed, methods in ((0, ("rtl", "imp", "imp_context")), (1, ("rtl",))):
        order = Order(tiny, "quick", settings, False, str(source), methods=methods)
        ((item, data),) = order.load().items()
        path = folder / "runs" / item / f"seed{seed}"
        list(order.run(data, seed, path, None, item))
        made.append(Finished(path, item, seed, data, tiny))
    return made


def test_a_run_records_psnr_of_each_region_and_the_floor(runs):
    rows = [r for r in read_records(runs[0].path) if str(r.get("metric", "")).startswith("psnr")]
    for method in ("rtl", "imp", "imp_context"):
        own = [r for r in rows if (r["method"], r["sparsity"]) == (method, 0.5)]
        assert {r["ticket"] for r in own if "ticket" in r} == {"sky", "sea", "sand"}
        whole = {r["metric"]: r["value"] for r in own if "ticket" not in r}
        assert set(whole) == {"psnr", "psnr_region", "psnr_floor"}
        assert whole["psnr"] > 5
    floors = {r["value"] for r in rows if r["metric"] == "psnr_floor"}
    assert len(floors) == 1


@pytest.mark.parametrize("method", ["rtl", "imp", "imp_context"])
def test_a_picture_shows_what_was_judged(runs, method):
    run = runs[0]
    made = outputs(run, method, 0.75)
    recorded = [
        r["value"]
        for r in read_records(run.path)
        if (r.get("method"), r.get("sparsity"), r.get("metric")) == (method, 0.75, "psnr")
        and "ticket" not in r
    ]
    assert psnr(squared(made.clamp(0, 1), run.data.test.y)) == pytest.approx(recorded[0], abs=1e-3)


def test_a_sheet_per_picture_and_one_of_similarity_are_drawn(runs, tmp_path):
    files = INR.draw(runs, tmp_path)
    assert [file.name for file in files] == ["photo.jpg", "similarity.png", "similarity.json"]
    for file in files[:2]:
        assert min(Image.open(file).size) > 300
        assert file.stat().st_size < 300_000
    points = json.loads(files[2].read_text())
    assert len(points) == 2 * 2 * 3  # seeds, sparsities, regions
    assert {p["region"] for p in points} == {"sky", "sea", "sand"}
    masks = runs[0].tickets("rtl", 0.5, INR.backbone(generator(0))).masks
    one = next(p for p in points if (p["seed"], p["sparsity"], p["region"]) == (0, 0.5, masks.names[0]))
    assert one["jaccard"] == pytest.approx(float(masks.jaccard()[0, 1:].mean()))


def test_runs_with_nothing_to_show_say_so(runs, tmp_path):
    (tmp_path / "run" / "tickets").mkdir(parents=True)
    with pytest.raises(RunError, match="nothing to draw: none of these runs holds rtl, imp, imp_context"):
        INR.draw([replace(runs[0], path=tmp_path / "run")], tmp_path)


def test_spearman_within_and_over_pictures():
    def point(item, jaccard, psnr):
        return {"item": item, "seed": 0, "jaccard": jaccard, "psnr": psnr}

    up = [point("a", 0.1 * i, 20.0 + i) for i in range(4)]
    down = [point("b", 0.1 * i, 10.0 - i) for i in range(4)]
    assert inr.spearman(up) == (pytest.approx(1), pytest.approx(1))
    assert inr.spearman(up + down)[1] == pytest.approx(0)
    assert all(np.isnan(inr.spearman(up[:2])))
