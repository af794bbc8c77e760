"""Tables, data sets that are read when they are asked for, folders of pictures, and how they are divided."""

import os
import random
import subprocess
import sys
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import tombola as tb
from tombola._utils.errors import DataError, WorkerDied
from tombola.data.splitting import divided
from tombola.data.stored import Request

THIRDS = {"train": range(500), "validation": range(500, 700), "test": range(700, 1000)}
OPTIONS = {"sparsity": 0.5, "T": 6, "steps": 12, "parallel": "no"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


class Rows(Dataset):
    """Rows that are made anew each time; with ``noise``, by a random transform."""

    def __init__(self, count=200, noise=0.0, fails=None):
        self.x, self.noise, self.fails = (
            torch.rand(count, 8, generator=torch.Generator().manual_seed(1)),
            noise,
            fails,
        )

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i == self.fails:
            raise OSError("the disk is gone")
        drawn = torch.rand(8) + random.random() + float(np.random.rand())
        return self.x[i] + self.noise * drawn, i % 2


def tickets_of(data, **options):
    partition = tb.partition.by_label(data, ["even", "odd"])
    return tb.rtl(network(), tb.objectives.OneVsRest(), data, partition, **{**OPTIONS, **options})


def same(a, b):
    return torch.equal(a.masks.masks_KN, b.masks.masks_KN) and all(
        torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# -- read when asked for ---------------------------------------------------------------------------------


def test_what_is_read_by_workers_gives_the_tickets_of_what_is_in_memory():
    direct = tb.Data.of(Rows().x, torch.arange(200) % 2)
    found = [tickets_of(direct)]
    found += [tickets_of(tb.Data.from_dataset(Rows(), workers=w)) for w in (0, 2)]
    found.append(tickets_of(tb.Data.from_dataset(Rows(), memory=True)))
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert same(found[0], found[3])


@pytest.mark.parametrize("parallel", ["no", "batched"])
def test_random_transforms_are_drawn_anew_and_do_not_depend_on_workers(parallel):
    data = [tb.Data.from_dataset(Rows(noise=0.1), workers=w) for w in (0, 2)]
    found = [tickets_of(data[0], parallel=parallel)]  # what is imported by now may have drawn
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found += [tickets_of(d, parallel=parallel) for d in data]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == random.getstate()
    once, twice = (data[0].inputs("train", torch.arange(3), torch.Generator().manual_seed(s)) for s in (1, 2))
    assert not torch.equal(once, twice)
    assert torch.equal(*(d.inputs("test", torch.arange(3)) for d in data))


def test_ticket_workers_read_for_themselves():
    data = tb.Data.from_dataset(Rows(noise=0.1), workers=2)
    assert same(tickets_of(data, parallel="no"), tickets_of(data, parallel="workers"))


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path):
    class Stops(Rows):
        left = 10**9

        def __getitem__(self, i):
            Stops.left -= 1
            if Stops.left == 0:
                raise KeyboardInterrupt
            return super().__getitem__(i)

    Stops.left = 10**9
    whole = tickets_of(tb.Data.from_dataset(Stops(noise=0.1)), out=tmp_path / "a")
    read = 10**9 - Stops.left
    for at in (read // 3, 2 * read // 3):
        Stops.left = at
        with pytest.raises(KeyboardInterrupt):
            tickets_of(tb.Data.from_dataset(Stops(noise=0.1)), out=tmp_path / "b")
    Stops.left = 10**9
    assert same(whole, tickets_of(tb.Data.from_dataset(Stops(noise=0.1)), out=tmp_path / "b"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named(workers):
    with pytest.raises(
        DataError, match=r"^sample 77 of the data set cannot be read \(OSError: the disk is gone\)$"
    ):
        tb.Data.from_dataset(Rows(2000, fails=77), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_nan_in_a_sample_is_named_when_it_is_read(workers):
    rows = Rows(1000)
    rows.x[5, 0] = torch.nan
    data = tb.Data.from_dataset(rows, workers=workers, split=THIRDS)
    with pytest.raises(DataError, match=r"^x holds NaN .*\(the first is number 5, at \[0\]\)"):
        list(data.batches("train", torch.arange(len(data.train)).split(10)))


def test_a_killed_worker_is_one_line():
    class Dies(Rows):
        def __getitem__(self, i):
            if torch.utils.data.get_worker_info():
                os._exit(9)
            return super().__getitem__(i)

    stored = tb.Data.from_dataset(Dies(), split={"train": range(100), "test": range(100, 200)}).train.x
    dying = type(stored)(stored.dataset, stored.collate, 2, stored.index)
    with pytest.raises(WorkerDied, match="use fewer than 2 workers"):
        list(dying.batches(Request(torch.tensor([i])) for i in range(20)))


def test_splits_may_be_data_sets_of_their_own():
    data = tb.Data.from_dataset({"train": Rows(100, noise=1.0), "val": Rows(20), "test": Rows(30)})
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [100, 20, 30]
    assert torch.equal(data.inputs("test", torch.arange(30)), Rows(30).x)
    assert torch.equal(data.test.y, torch.arange(30) % 2)
    data = tb.Data.from_dataset({"train": Rows(100), "test": Rows(30)}, validation=0.25)
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [75, 25, 30]


def test_mappings_name_their_parts_and_collate_pads():
    rows = [
        {"ids": list(range(1, 2 + i % 4)), "label": i % 2, "text": "x" * i, "site": f"s{i % 9}"}
        for i in range(60)
    ]

    def pad(samples):
        longest = max(len(s["ids"]) for s in samples)
        return {"ids": torch.tensor([s["ids"] + [0] * (longest - len(s["ids"])) for s in samples])}

    data = tb.Data.from_dataset(rows, inputs=["ids"], context="site", collate=pad, memory=False, group="site")
    index = torch.arange(5)
    assert data.inputs("train", index)["ids"].shape == (5, 4)
    assert not {*data.train.column("site")} & {*data.test.column("site")}
    with pytest.raises(DataError, match=r"x.* of sample 0 has shape \(1,\), of sample 1 \(2,\).*collate="):
        tb.Data.from_dataset(rows, inputs=["ids"], memory=True)
    with pytest.raises(DataError, match=r"no part of a sample 'sites'; did you mean 'site'"):
        tb.Data.from_dataset(rows, context="sites")
    with pytest.raises(DataError, match="say which is the target"):
        tb.Data.from_dataset([{"a": 1.0, "b": 2} for _ in range(20)])


def test_hugging_face_data_sets_and_dictionaries_of_them():
    datasets = pytest.importorskip("datasets")
    made = {"x": np.random.rand(80, 4).tolist(), "label": [i % 2 for i in range(80)], "who": ["a", "b"] * 40}
    whole = datasets.Dataset.from_dict(made)
    data = tb.Data.from_dataset(whole, inputs="x", context="who")
    assert repr(data) == "Data(train=56, validation=8, test=16 samples, x=stored float32[4], y=int64[])"
    assert tb.partition.by_column(data, "who").names == ("a", "b")
    parts = datasets.DatasetDict({"train": whole, "validation": whole.select(range(9)), "test": whole})
    data = tb.Data.from_dataset(parts, inputs="x")
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [80, 9, 80]
    assert torch.allclose(data.inputs("validation", torch.arange(9)), torch.tensor(made["x"][:9]))
    table = whole.remove_columns("x").add_column("n", list(range(80)))
    assert len(tb.Data.from_table(table, "label", context="who").train) == 56
    changed = whole.with_transform(lambda rows: {"pixels": rows["x"], "labels": rows["label"]})
    data = tb.Data.from_dataset(changed)
    assert sorted(data.train.y.unique().tolist()) == [0, 1]
    assert list(data.inputs("train", torch.arange(2))) == ["pixels"]


def test_lists_and_tensor_datasets_stay_in_memory():
    data = tb.Data.from_dataset(TensorDataset(Rows().x, torch.arange(200) % 2))
    assert isinstance(data.train.x, torch.Tensor)


SCRIPT = """
import psutil, resource, sys, sklearn.metrics, torch, tombola as tb
from torch import nn
S, n = 20_000, 1_600  # 128 MB of float32

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return S
    def __getitem__(self, i):
        x = torch.full((n,), float(i % 7)) / 7
        x[: 8] = (torch.arange(8) == i % 8).float()
        return x, i % 2
    targets = torch.arange(S) % 2

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(n, 16), nn.ReLU(), nn.Linear(16, 2))
split = {"train": range(S - 400), "validation": range(S - 400, S - 200), "test": range(S - 200, S)}
def masks(data):
    partition = tb.partition.by_label(data, ["even", "odd"])
    how = {"sparsity": 0.5, "T": 5, "steps": 5, "parallel": "no"}
    return tb.rtl(net, tb.objectives.OneVsRest(), data, partition, **how).masks
if sys.argv[1] == "limited":
    data = tb.Data.from_dataset(Rows(), workers=2, split=split)
    used = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (used + 120_000_000,) * 2)
    print(hash(masks(data).masks_KN.numpy().tobytes()))
    try:
        tb.Data.from_dataset(Rows(), memory=True, split=split)
    except (MemoryError, RuntimeError):
        print("no room")
else:
    index = torch.arange(S)
    x = (index % 7).float().div(7)[:, None].repeat(1, n)
    x[:, :8] = (torch.arange(8) == (index % 8)[:, None]).float()
    print(hash(masks(tb.Data.of(x, index % 2, split=split)).masks_KN.numpy().tobytes()))
"""


def test_data_larger_than_memory_allows_give_the_masks_of_data_in_memory(tmp_path):
    (tmp_path / "job.py").write_text(SCRIPT)
    pytest.importorskip("psutil", reason="psutil is not installed")
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}

    def run(how):
        done = subprocess.run(
            [sys.executable, tmp_path / "job.py", how],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")

    limited, free = run("limited"), run("free")
    assert limited[0] == free[0]
    assert limited[1] == "no room"


# -- tables ----------------------------------------------------------------------------------------------


def houses():
    draw = np.random.default_rng(0)
    return {
        "rooms": draw.integers(1, 6, 120),
        "area": draw.normal(1000, 200, 120),
        "garden": draw.random(120) < 0.5,
        "price": draw.random(120),
        "kind": draw.choice(["flat", "house"], 120),
        "city": draw.choice(["A", "B", "C"], 120),
    }


@pytest.mark.parametrize("form", [dict, pd.DataFrame, pa.table])
def test_tables_are_read_by_the_names_of_columns(form):
    table = form(houses())
    data = tb.Data.from_table(table, "price", ["rooms", "area", "garden"], "city", standardize=True)
    assert repr(data.train) == "Split(84 samples, x=float32[3], y=float32[], columns=['city'])"
    x = data.inputs("train", torch.arange(84))
    assert torch.allclose(x.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert tb.partition.by_column(data, "city").names == ("A", "B", "C")
    two = tb.Data.from_table(table, ["price", "area"], {"a": "rooms", "b": ["rooms", "garden"]})
    assert two.train.y.shape == (84, 2)
    assert two.train.x["a"].shape == (84,)
    assert two.train.x["b"].shape == (84, 2)
    kinds = tb.Data.from_table(table, "kind", ["area"])
    assert tb.partition.by_column(kinds, "kind").names == ("flat", "house")
    assert set(kinds.train.y.tolist()) == {0, 1}


def test_a_table_is_read_from_a_path(tmp_path):
    pd.DataFrame(houses()).to_csv(tmp_path / "houses.csv", index=False)
    pd.DataFrame(houses()).to_parquet(tmp_path / "houses.parquet")
    made = [
        tb.Data.from_table(source, "price", ["rooms", "garden"], "city")
        for source in (houses(), tmp_path / "houses.csv", str(tmp_path / "houses.parquet"))
    ]
    for data in made[1:]:
        assert torch.equal(data.train.x, made[0].train.x)
        assert torch.equal(data.train.y, made[0].train.y)
    (tmp_path / "houses.txt").write_text("rooms")
    for name, words in (("houses.txt", "is no CSV or Parquet file"), ("absent.csv", "is not there")):
        with pytest.raises(DataError, match=rf"{name} {words}: give such a file"):
            tb.Data.from_table(tmp_path / name, "price")


def test_columns_of_another_scale_are_warned_of():
    with pytest.warns(UserWarning, match=r"column 'area' has numbers of about 1\S*: .*standardize=True"):
        tb.Data.from_table(houses(), "price", ["rooms", "area"], "city")
    for inputs, remedy in (
        ("area", "standardize=True"),
        ({"a": "rooms", "b": ["area"]}, "scale them before"),
    ):
        with pytest.warns(UserWarning, match=rf"column 'area' has numbers of about 1\S*: .*{remedy}"):
            tb.Data.from_table(houses(), "price", inputs, "city")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tb.Data.from_table(houses(), "price", ["rooms", "area"], "city", standardize=True)
        tb.Data.from_table(houses(), "price", ["rooms", "garden"], "city")


def test_numbers_of_a_database_are_numbers():
    table = {"a": np.array([Decimal("1.5"), 2, 3] * 10, dtype=object), "y": np.arange(30)}
    assert set(tb.Data.from_table(table, "y").train.x.flatten().tolist()) == {1.5, 2.0, 3.0}


def test_what_a_table_lacks_is_said_by_name():
    table = pd.DataFrame(houses())
    with pytest.raises(DataError, match=r"column 'kind' holds str, and an input needs numbers.*get_dummies"):
        tb.Data.from_table(table, "price", context="city")
    with pytest.raises(DataError, match=r"no column 'prize'; did you mean 'price'"):
        tb.Data.from_table(table, "prize")
    with pytest.raises(DataError, match=r"column 'area' has 1 missing values"):
        tb.Data.from_table(table.assign(area=[np.nan, *table["area"][1:]]), "price", ["area"])
    with pytest.raises(DataError, match=r"column 'kind' has 1 missing values"):
        tb.Data.from_table(table.assign(kind=[None, *table["kind"][1:]]), "kind", ["area"])
    with pytest.raises(DataError, match="a table has named columns"):
        tb.Data.from_table(np.zeros((3, 3)), "price")


def test_columns_without_names_are_known_by_their_numbers():
    table = pd.DataFrame(np.random.default_rng(0).random((40, 4)))
    table[3] = ["A", "B"] * 20
    data = tb.Data.from_table(table, target=2, context=3)
    assert data.features == ["0", "1"]
    assert tb.partition.by_column(data, "3").names == tb.partition.by_column(data, 3).names == ("A", "B")
    assert tb.Data.from_table(table, [2, 1], inputs=0, context=3).train.y.shape == (28, 2)
    assert tb.Data.from_table(table, "2", inputs={"a": [0, 1]}).features == {"a": ["0", "1"]}
    with pytest.raises(DataError, match="0' is an input, and the target"):
        tb.Data.from_table(table, 0, [0, 1])
    with pytest.raises(DataError, match="several columns '1': rename all but one"):
        tb.Data.from_table(pd.DataFrame({"1": [0.0] * 9, 1: [1.0] * 9, "y": [0.0] * 9}), "y")


@given(st.permutations(["low", "middle", "high"]), st.booleans())
def test_categories_keep_their_order_as_classes(order, arrays):
    values = ["low", "high", "middle", "high"] * 10
    kind = pd.Categorical(values, order, ordered=True)
    table = (
        {"a": np.arange(40.0), "kind": kind} if arrays else pd.DataFrame({"a": np.arange(40.0), "kind": kind})
    )
    data = tb.Data.from_table(table, "kind")
    assert data.class_names == tuple(order)
    for split in (data.train, data.test):
        assert [order[n] for n in split.y] == split.column("kind").tolist()
    numbers = tb.Data.from_table(
        {"a": np.arange(40.0), "kind": pd.Categorical([30, 10] * 20, [30, 10])}, "kind"
    )
    assert numbers.class_names == ("30", "10")
    plain = tb.Data.from_table({"a": np.arange(40.0), "kind": values}, "kind")
    assert plain.class_names == ("high", "low", "middle")


def test_a_category_that_is_missing_is_counted():
    kind = pd.Categorical(["a", None, "b", None] * 5, ["b", "a"])
    with pytest.raises(DataError, match="column 'kind' has 10 missing values"):
        tb.Data.from_table({"a": np.arange(20.0), "kind": kind}, "kind")


def test_data_sets_that_name_their_classes_keep_the_names():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = datasets.Dataset.from_dict({"x": [0.5] * 20, "label": [0, 1] * 10}, features=features)
    assert tb.Data.from_dataset(rows).class_names == ("cat", "dog")
    text = [{"x": 0.5, "label": name} for name in ["dog", "cat"] * 10]
    assert tb.Data.from_dataset(text).class_names == ("cat", "dog")
    assert tb.Data.from_dataset([(0.5, 1)] * 20).class_names == ()


# -- folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for n in range(120):
        split, domain, kind = (
            ("train", "test")[n % 3 == 0],
            ("day", "night")[n % 2],
            ("cat", "dog")[n // 2 % 2],
        )
        place = tmp_path / split / domain / kind
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 255, (20 + n % 5, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{n}.png")
    return tmp_path


def test_folders_say_split_domain_and_class(folder):
    levels = ("split", "domain", "class")
    data = tb.Data.from_folder(folder, 16, levels)
    assert repr(data) == "Data(train=72, validation=8, test=40 samples, x=uint8[3, 16, 16], y=int64[])"
    assert tb.partition.by_column(data, "domain").names == ("day", "night")
    assert tb.partition.by_column(data, "class").names == ("cat", "dog")
    x = data.inputs("test", torch.arange(3))
    assert x.dtype == torch.float32
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    lazy = tb.Data.from_folder(folder, 16, levels, memory=False, workers=2)
    assert torch.equal(x, lazy.inputs("test", torch.arange(3)))
    assert tb.Data.from_folder(folder, 16, levels, grey=True).train.x.shape == (72, 1, 16, 16)


def test_what_a_folder_lacks_is_said(folder):
    with pytest.raises(DataError, match=r"no pictures as CLASS/FILE; there is test/day/cat/0.png: say"):
        tb.Data.from_folder(folder, 16)
    with pytest.raises(DataError, match=r"pass size=|crop or pad"):
        tb.Data.from_folder(folder, levels=("split", "domain", "class"))
    (folder / "train/day/cat/bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad.png is no picture that can be read"):
        tb.Data.from_folder(folder, 16, ("split", "domain", "class"))
    with pytest.raises(DataError, match="there is no folder"):
        tb.Data.from_folder(folder / "none")


@pytest.mark.parametrize("memory", [True, None])
def test_one_broken_picture_is_named_and_all_are_counted(folder, memory):
    options = {"size": 16, "levels": ("split", "domain", "class"), "memory": memory}
    for name in ("bad.png", "worse.jpg", "test.png"):
        (folder / "train/day/cat" / name).write_bytes(b"no picture")
    whole = (folder / "train/day/cat/8.png").read_bytes()
    (folder / "train/day/cat/8.png").write_bytes(whole[: len(whole) // 2])
    words = r"8\.png is no picture .*, and 3 more of 123 cannot be read: mend .* or pass skip_broken=True"
    with pytest.raises(DataError, match=words):
        tb.Data.from_folder(folder, **options)
    with pytest.warns(UserWarning, match=r"8\.png is no .* 3 more of 123 cannot be read: left out"):
        data = tb.Data.from_folder(folder, **options, skip_broken=True)
    assert len(data.train) + len(data.validation) == 79
    assert len(data.test) == 40


def test_headers_are_looked_at_before_pictures_are_read_in_batches(folder):
    (folder / "train/day/cat/bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png is no picture .* skip_broken=True"):
        tb.Data.from_folder(folder, 16, ("split", "domain", "class"), memory=False)


def test_nothing_but_broken_pictures_are_no_data(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png is no picture"):
        tb.Data.from_folder(tmp_path, 16, skip_broken=True)


def test_files_that_are_passed_over_are_counted_in_one_warning(folder):
    for name in ("a.gif", "b.gif", "c.tiff", "README", ".hidden"):
        (folder / "train/day/cat" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="passed over") as caught:
        tb.Data.from_folder(folder, 16, ("split", "domain", "class"))
    (line,) = {str(warning.message) for warning in caught}
    assert line.endswith(
        "4 files are no pictures that are read, and passed over: 2 .gif, 1 no suffix, 1 .tiff"
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    (tmp_path / "a").mkdir()
    picture = Image.new("RGBA", (8, 8), (200, 0, 0, 0))  # red that nobody sees
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    more = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        picture = Image.new("P", (8, 8), 0)
        picture.putpalette([200, 0, 0, 0, 0, 0])
        picture.paste(1, (0, 0, 4, 8))
    else:
        picture = picture.convert(mode)
    for n in range(10):
        picture.save(tmp_path / f"a/{n}.png", **more)
    x = tb.Data.from_folder(tmp_path).train.x
    assert x[:, :, :, :4].max() == 0
    assert x[:, :, :, 4:].min() == 255
    rows = tb.Data.from_dataset([(Image.open(tmp_path / "a/0.png"), n % 2) for n in range(20)], memory=True)
    assert torch.equal(rows.train.x[0], x[0])


# -- divisions -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3), min_size=8, max_size=20), st.integers(0, 9))
def test_no_group_is_in_two_splits(sizes, seed):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    found = divided(len(groups), {"g": groups}, validation=0.1, test=0.2, seed=seed, group="g")
    a, b, c = (set(groups[index.numpy()].tolist()) for index in found.values())
    assert not a & b | a & c | b & c
    assert sorted(torch.cat(list(found.values())).tolist()) == list(range(len(groups)))
    assert len(found["validation"]) >= round(0.1 * len(groups))


def test_too_few_groups_are_said():
    with pytest.raises(DataError, match="2 groups cannot be split"):
        divided(40, {"g": np.arange(40) % 2}, validation=0.1, test=0.2, seed=0, group="g")


def test_splits_as_they_are_given():
    columns = {"part": ["train", "val", "test", "train"] * 10, "who": [f"p{i // 4}" for i in range(40)]}
    x = torch.arange(40.0)
    data = tb.Data.of(x, x, columns, split="part")
    assert data.train.x.tolist() == [v for v in range(40) if v % 4 in (0, 3)]
    assert data.validation.x.tolist() == list(range(1, 40, 4))
    data = tb.Data.of(x, x, split={"train": range(20), "validation": x > 29, "test": [25, 26]})
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [20, 10, 2]
    for split, words in (
        ({"train": range(20), "test": [19, 30]}, "two splits"),
        ({"train": range(20)}, "leaves test without samples"),
        ({"train": range(20), "test": [40]}, r"split\['test'\] holds numbers from 40 to 40, there are 40"),
        ({"train": range(20), "tests": [30]}, "no split 'tests'"),
        ("who", "holds 'p0': train, validation and test are known"),
        ("whose", "no column 'whose'; did you mean 'who'"),
    ):
        with pytest.raises(DataError, match=words):
            tb.Data.of(x, x, columns, split=split)
    with pytest.raises(DataError, match=r"who 'p0' is in train and validation: a group must be in one split"):
        tb.Data.of(x, x, columns, split="part", group="who")


# -- careless calls --------------------------------------------------------------------------------------


class Named(Rows):
    def __getitem__(self, i):
        return {"a": self.x[i], "b": self.x[i, :2], "y": float(i), "price": i / 7, "who": i % 5}


def test_the_last_of_a_pair_is_its_target_and_the_first_may_be():
    data = tb.Data.from_dataset(Rows(), target=-1)
    assert data.train.y.unique().tolist() == [0, 1]
    assert data.inputs("train", torch.arange(3)).shape == (3, 8)
    data = tb.Data.from_dataset(Rows(), target=0)
    assert data.train.y.shape == (140, 8)


def test_what_is_neither_target_nor_column_is_an_input():
    data = tb.Data.from_dataset(Named(), target="price")
    assert list(data.inputs("train", torch.arange(2))) == ["a", "b", "y", "who"]
    data = tb.Data.from_dataset(Named(), "price", columns={"who": np.arange(200) % 5}, group="who")
    assert list(data.inputs("train", torch.arange(2))) == ["a", "b", "y"]


def broken_collate(samples):
    raise KeyError("ids")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tb.Data.from_dataset(Rows(), target=3), "target is 0 or 1, not 3"),
        (lambda: tb.Data.from_dataset(Rows(), group="who"), "give columns="),
        (
            lambda: tb.Data.from_dataset(Named(), "price", inputs=["a", "price"]),
            "'price' is an input, and the target",
        ),
        (lambda: tb.Data.from_dataset(Named(), "price", inputs="who", context="who"), "'who' is an input"),
        (lambda: tb.Data.from_dataset(Rows(), workers=-1), "workers is a number of processes"),
        (
            lambda: tb.Data.from_dataset(Rows(), collate=broken_collate).inputs("train", torch.arange(2)),
            r"collate fails for 2 samples \(KeyError: 'ids'\)",
        ),
        (
            lambda: tb.Data.from_dataset([({"a": 1.0}, None)] * 20),
            r"sample 0 has no target \(None\), with 20",
        ),
        (lambda: tb.Data.from_table(houses(), None), "give the name of a column"),
        (lambda: tb.Data.from_table(houses(), []), "target is the name of a column"),
        (
            lambda: tb.Data.from_table(houses(), "price", 3.5),
            "give the name of a column, or several: got 3.5",
        ),
        (lambda: tb.Data.from_table(houses(), "price", ["area", "price"]), "would be told the answer"),
        (
            lambda: tb.Data.from_table(houses() | {"area": 1.7e9 + np.arange(120)}, "price", ["area"]),
            "subtract its mean",
        ),
        (lambda: tb.Data.of(torch.rand(40, 2), torch.arange(40), validation="a"), "validation is a share"),
        (
            lambda: tb.Data.of(torch.rand(40, 2), torch.arange(40), split=3),
            "split is the name of a column, or",
        ),
        (lambda: tb.Data.of(torch.rand(40, 2), torch.arange(40), prepare=3), "prepare is a function"),
        (
            lambda: tb.Data.of(torch.rand(40, 2), torch.arange(40), groups="a"),
            "no option 'groups'; did you mean 'group'",
        ),
        (
            lambda: tb.Data.of(
                torch.rand(6, 2),
                torch.arange(6),
                split={"train": [0, 1], "val": [3], "validation": [4], "test": [5]},
            ),
            "split names validation twice",
        ),
        (
            lambda: tb.Data.of(torch.rand(40, 2), torch.arange(40), {"g": [None, 1.0] * 20}, group="g"),
            "column 'g' has 20 missing values",
        ),
        (lambda: tb.Data.from_folder(".", 0), "size is a number of pixels|no pictures"),
    ],
)
def test_careless_calls_are_one_line(call, words):
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_pictures_of_more_than_eight_bits_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray((np.arange(256 * 20).reshape(64, 80) * 12).astype(np.uint16)).save(
        tmp_path / "a/deep.png"
    )
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel"):
        tb.Data.from_folder(tmp_path, 16)


def test_tickets_asked_with_what_is_not_read_say_how_to_read_it():
    data = tb.Data.from_dataset(Rows())
    with pytest.raises(
        tb.TombolaError if hasattr(tb, "TombolaError") else Exception, match=r"pass data.inputs\("
    ):
        tickets_of(data)(data.test.x, ticket="even")


def test_subsets_by_clusters_read_what_is_stored_and_corruptions_say_that_they_cannot():
    data = tb.Data.from_dataset(Rows())
    found = tb.partition.by_clusters(data, lambda split: split.x, k=2)
    direct = tb.Data.of(Rows().x, torch.arange(200) % 2)
    expected = tb.partition.by_clusters(direct, lambda split: split.x, k=2)
    assert all(torch.equal(found.members[s], m) for s, m in expected.members.items())
    with pytest.raises(DataError, match="corruptions are of images in memory: memory=True"):
        tb.corruptions.environments(data)
