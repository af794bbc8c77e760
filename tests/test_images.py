"""Images from Parquet files, folders and the hub; crops, flips and normalisation."""

import io
import struct
import sys
import types

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from tombola._utils.errors import DataError
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Data
from tombola.data.images import Normalise, crop_and_flip
from tombola.lab.experiments.images import decode, list_images, set_aside

NAMES = ["cat", "dog", "owl"]
SIZE = 4


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, images, labels, image="img", label="label"):
    column = [{"bytes": data, "path": None} for data in images]
    parquet.write_table(pyarrow.table({image: column, label: labels}), path)


def write_tree(folder, count=6, splits=("train", "test")):
    for split in splits:
        for i in range(count):
            directory = folder / split / NAMES[i % 3]
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{i}.png").write_bytes(png(pixels(i)))


def read(source):
    train, test = list_images(str(source), NAMES, "label")
    return [(split.x, split.y) for split in decode(SIZE, train, test, test)[:2]]


# -- sources ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet_files_are_read_in_order(column, tmp_path):
    for part, numbers in enumerate([(0, 1, 2), (3, 4)]):
        images = [png(pixels(n)) for n in numbers]
        write_parquet(tmp_path / f"train-{part}.parquet", images, [n % 3 for n in numbers], column)
    write_parquet(tmp_path / "test-0.parquet", [png(pixels(9))], [2], column)
    (x, y), (x_test, y_test) = read(tmp_path)
    assert x.dtype == torch.uint8
    assert y.dtype == torch.int64
    assert torch.equal(x, torch.stack([torch.from_numpy(pixels(n)).permute(2, 0, 1) for n in range(5)]))
    assert y.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(x_test[0], torch.from_numpy(pixels(9)).permute(2, 0, 1))
    assert y_test.tolist() == [2]


def test_a_folder_per_class_is_read_and_other_files_in_it_are_not(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "train" / "cat" / "README.txt").write_text("x")
    (tmp_path / "train" / "README.txt").write_text("x")
    (x, y), (x_test, _) = read(tmp_path)
    assert y.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(x[1], torch.from_numpy(pixels(3)).permute(2, 0, 1))
    assert x_test.shape == (6, 3, SIZE, SIZE)


def test_grey_images_become_rgb(tmp_path):
    write_tree(tmp_path)
    Image.fromarray(pixels(0)[:, :, 0]).save(tmp_path / "train" / "cat" / "0.png")
    (x, _), _ = read(tmp_path)
    assert torch.equal(x[0, 0], x[0, 2])


def write_domains(folder, domains):
    for split in ("train", "test"):
        column = [{"bytes": png(pixels(n)), "path": None} for n in range(len(domains))]
        table = pyarrow.table({"img": column, "label": [0] * len(domains), "domain": domains})
        parquet.write_table(table, folder / f"{split}.parquet")


def test_further_columns_of_parquet_files_become_columns_of_the_splits(tmp_path):
    write_domains(tmp_path, [3, 0, 2])
    listed = list_images(str(tmp_path), NAMES, "label", columns=("domain",))
    train, test, _ = decode(SIZE, *listed, listed[1])
    assert train.column("domain").tolist() == test.column("domain").tolist() == [3, 0, 2]
    assert train.column("domain").dtype == np.int64
    assert list_images(str(tmp_path), NAMES, "label")[0].columns == {}


def test_further_columns_that_are_missing_or_no_whole_numbers_are_named(tmp_path):
    write_domains(tmp_path, ["photo", "sketch"])
    with pytest.raises(DataError, match="the domain of row 0 is 'photo', a whole number"):
        list_images(str(tmp_path), NAMES, "label", columns=("domain",))
    with pytest.raises(DataError, match="label, scene; it has img, label, domain"):
        list_images(str(tmp_path), NAMES, "label", columns=("scene",))


def test_folders_of_classes_have_no_further_columns(tmp_path):
    write_tree(tmp_path)
    with pytest.raises(DataError, match="domain needs Parquet files"):
        list_images(str(tmp_path), NAMES, "label", columns=("domain",))


def test_what_is_set_aside_is_fixed_and_disjoint(tmp_path):
    write_domains(tmp_path, list(range(20)))
    whole, _ = list_images(str(tmp_path), NAMES, "label", columns=("domain",))
    (train, validation), (again, _) = (set_aside(whole, 6, "there", "key") for _ in range(2))
    held = [part.columns["domain"].tolist() for part in (train, validation, again)]
    assert held[0] == held[2]
    assert len(held[1]) == 6
    assert sorted(held[0] + held[1]) == list(range(20))
    with pytest.raises(DataError, match="there has 20 training images; more than 20"):
        set_aside(whole, 20, "there", "key")


def test_what_was_set_aside_is_decoded_in_its_order(tmp_path):
    write_domains(tmp_path, list(range(20)))
    whole, test = list_images(str(tmp_path), NAMES, "label", columns=("domain",))
    for part in decode(SIZE, *set_aside(whole, 6, "there", "key"), test.take(torch.tensor([3]))):
        for image, domain in zip(part.x, part.column("domain"), strict=True):
            assert torch.equal(image, torch.from_numpy(pixels(domain)).permute(2, 0, 1))
        assert part.x.is_contiguous()


# -- errors -----------------------------------------------------------------------------------------------


def refused(source, *words):
    with pytest.raises(DataError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "nothing", "a/b/c"])
def test_a_missing_folder_is_named(source):
    refused(source, source, "there is no folder")


def test_a_folder_with_neither_kind_of_data_says_what_is_looked_for(tmp_path):
    refused(tmp_path, str(tmp_path), "train*.parquet", "train/")


def test_a_missing_test_split_is_named(tmp_path):
    write_tree(tmp_path, splits=("train",))
    refused(tmp_path, "no folder test/")
    write_parquet(tmp_path / "train.parquet", [png(pixels(0))], [0])
    refused(tmp_path, "no test*.parquet")


def test_an_unknown_class_folder_is_named_with_the_near_miss(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "train" / "dgo").mkdir()
    refused(tmp_path, "dgo", "did you mean 'dog'")


def test_an_empty_split_is_named(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    refused(tmp_path, "(train)", "no images")


def test_an_image_of_another_size_is_named(tmp_path):
    write_tree(tmp_path)
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "test" / "cat" / "0.png")
    refused(tmp_path, "(test)", "image 0", "(5, 4)", "4×4")


@pytest.mark.parametrize("column", ["picture", "img"])
def test_missing_columns_are_named_with_those_there_are(column, tmp_path):
    label = "label" if column == "picture" else "class"
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [png(pixels(0))], [0], column, label)
    refused(tmp_path, "train.parquet", column, label)


@pytest.mark.parametrize("column", [[1, 2], ["a", "b"], [[1, 2], [3]], [None, None]], ids=str)
def test_a_column_that_holds_no_images_is_named(column, tmp_path):
    for split in ("train", "test"):
        table = pyarrow.table({"img": column, "label": [0, 1]})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    refused(tmp_path, "row 0 is no image")


def damaged_png():
    """A chunk whose length is right and whose name is not."""
    data = png(pixels(0))
    at = data.index(b"IDAT")
    return data[:at] + b"\x01\x02\x03\x04" + data[at + 4 :]


@pytest.mark.parametrize(
    "data",
    [b"not an image", b"", None, png(pixels(0))[:50], damaged_png(), struct.pack("<q", 7) * 9],
    ids=["text", "empty", "none", "cut", "chunk", "binary"],
)
def test_a_row_that_is_no_image_is_named(data, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [png(pixels(0)), data], [0, 1])
    refused(tmp_path, "(train)", "row 1 is no image")


@pytest.mark.parametrize(("labels", "named"), [([0, 3], "class 3"), ([0, -1], "class -1")])
def test_a_label_out_of_range_is_named(labels, named, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [png(pixels(0))] * 2, labels)
    refused(tmp_path, named, "3 names")


@pytest.mark.parametrize("labels", [["cat", "dog"], [0.5, 1.0], [0, None]], ids=str)
def test_a_label_that_is_no_whole_number_is_named(labels, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [png(pixels(0))] * 2, labels)
    refused(tmp_path, "label of row", "whole number")


@pytest.mark.parametrize("where", ["empty", "head", "middle"])
def test_a_damaged_parquet_file_is_one_line(where, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [png(pixels(i)) for i in range(50)], [0] * 50)
    file = tmp_path / "train.parquet"
    old = file.read_bytes()
    half = len(old) // 2
    new = {
        "empty": b"",
        "head": b"XXXX" + old[4:-4] + b"XXXX",
        "middle": old[:4] + b"\xff" * half + old[4 + half :],
    }
    file.write_bytes(new[where])
    refused(tmp_path)


# -- the hub ----------------------------------------------------------------------------------------------


def test_a_hub_name_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("someone/something", "someone/something", "pip install -e '.[hub]'", "--data")


class HubTable(list):
    """What the hub's library returns, as far as it is used."""

    @property
    def column_names(self):
        return list(self[0])

    def select_columns(self, names):
        return HubTable({name: row[name] for name in names} for row in self)


def hub(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_hub_rows_are_read(monkeypatch):
    rows = HubTable({"image": Image.fromarray(pixels(n)), "label": n} for n in range(3))
    hub(monkeypatch, lambda name, split: rows)
    (x, y), _ = read("someone/something")
    assert y.tolist() == [0, 1, 2]
    assert torch.equal(x[2], torch.from_numpy(pixels(2)).permute(2, 0, 1))


def test_hub_columns_that_are_missing_are_named(monkeypatch):
    hub(monkeypatch, lambda name, split: HubTable([{"image": 0, "fine": 1}]))
    refused("someone/something", "label", "fine")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    def fail(name, split):
        raise ConnectionError("no network")

    hub(monkeypatch, fail)
    refused("someone/something", "could not be loaded", "no network")


# -- mapped from a file -----------------------------------------------------------------------------------


@pytest.fixture
def mapping(tmp_path, monkeypatch):
    """Images are mapped; the folder that their files lie in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TOMBOLA_MEMORY_SHARE", "0")
    return tmp_path / "cache" / "tombola"


def as_data(source, **options):
    rest, test = list_images(str(source), NAMES, "label")
    parts = decode(SIZE, *set_aside(rest, 5, source, "key"), test)
    return Data(*parts, prepare=Normalise((0.5,) * 3, (0.2,) * 3), augment=crop_and_flip, **options)


def test_mapped_images_give_the_same_batches(tmp_path, mapping, monkeypatch):
    write_tree(tmp_path, 20)
    mapped = as_data(tmp_path)
    monkeypatch.setenv("TOMBOLA_MEMORY_SHARE", "inf")
    held = as_data(tmp_path)
    assert len(list(mapping.glob("rows-*[!k]"))) == 3  # a file for each split, and its lock
    for split, parts in {s: (mapped.split(s), held.split(s)) for s in SPLITS}.items():
        assert torch.equal(parts[0].x, parts[1].x)
        assert torch.equal(parts[0].y, parts[1].y)
        index = torch.tensor([2, 0, 4])
        first, second = (data.inputs(split, index, generator(0)) for data in (mapped, held))
        assert torch.equal(first, second)
    assert torch.equal(mapped.tuning().test.x, held.tuning().test.x)
    assert mapped.tuning().test.x.data_ptr() > mapped.validation.x.data_ptr()  # a view, not a copy


def test_mapped_images_are_decoded_once_and_again_when_their_source_changes(tmp_path, mapping, monkeypatch):
    write_tree(tmp_path)
    opened, decoder = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *a: opened.append(1) or decoder(*a))
    first, again = read(tmp_path), read(tmp_path)
    assert torch.equal(first[0][0], again[0][0])
    once = len(opened)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(png(pixels(77)))
    changed = read(tmp_path)
    assert len(opened) > once
    assert torch.equal(changed[0][0][0], torch.from_numpy(pixels(77)).permute(2, 0, 1))
    assert torch.equal(changed[0][0][1:], first[0][0][1:])


def test_images_of_a_hub_are_mapped_by_their_fingerprint(mapping, monkeypatch):
    for number in (3, 4):
        rows = HubTable({"image": Image.fromarray(pixels(number)), "label": 0} for _ in range(2))
        rows._fingerprint = str(number)
        hub(monkeypatch, lambda name, split, rows=rows: rows)
        assert torch.equal(read("some/thing")[0][0][1], torch.from_numpy(pixels(number)).permute(2, 0, 1))


def test_an_image_that_is_none_is_named_where_images_are_mapped(tmp_path, mapping):
    write_tree(tmp_path)
    (tmp_path / "train" / "dog" / "1.png").write_bytes(b"no image")
    refused(tmp_path, "(train)", "row 2 is no image")


# -- augmentation and normalisation -----------------------------------------------------------------------


def test_crop_and_flip_is_a_crop_of_the_padded_image_maybe_mirrored():
    B, margin = 40, 2
    x = torch.randint(1, 256, (B, 3, 5, 6), generator=generator(0, "x")).to(torch.uint8)
    g = generator(1, "augment")
    found = crop_and_flip(x, g, margin)
    g = generator(1, "augment")
    tops, lefts = torch.randint(0, 2 * margin + 1, (2, B), generator=g).tolist()
    mirrored = (torch.rand(B, generator=g) < 0.5).tolist()
    for i in range(B):
        canvas = torch.zeros(3, 5 + 2 * margin, 6 + 2 * margin, dtype=torch.uint8)
        canvas[:, margin : margin + 5, margin : margin + 6] = x[i]
        crop = canvas[:, tops[i] : tops[i] + 5, lefts[i] : lefts[i] + 6]
        assert torch.equal(found[i], crop.flip(2) if mirrored[i] else crop)
    assert set(tops) == set(lefts) == set(range(2 * margin + 1))
    assert 0 < sum(mirrored) < B
    assert found.dtype == torch.uint8


def test_crops_depend_on_the_generator_alone():
    x = torch.randint(0, 256, (8, 3, 8, 8), generator=generator(0, "x")).to(torch.uint8)
    first, second, third = (crop_and_flip(x, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_normalise_gives_mean_zero_and_deviation_one_with_channels_last():
    x = torch.randint(0, 256, (64, 3, 8, 8), generator=generator(0, "x")).to(torch.uint8)
    scaled = x.double() / 255
    mean, std = (scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0))
    normalised = Normalise(tuple(mean.tolist()), tuple(std.tolist()))(x)
    expected = (scaled - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(normalised.double(), expected, atol=1e-5, rtol=1e-5)
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous(memory_format=torch.channels_last)
