"""PACS: its splits, its stand-in, its pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from tombola._utils.errors import DataError, PartitionError, RunError
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS
from tombola.lab.experiments import CORRUPTIONS, PACS, PACS64, pacs
from tombola.lab.experiments.experiment import Finished
from tombola.lab.experiments.pictures import accuracies, pixels
from tombola.lab.launch import Order
from tombola.masks.prunable import scope
from tombola.settings import Settings

PACS_DATA = Path(__file__).parents[2] / "shared" / "data" / "pacs"


def jpeg(number, side=64):
    picture = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(folder, domains=range(4), each=4, side=64, **columns):
    """Some images of every class in these domains, class by class."""
    for split, count in (("train", each), ("test", 2)):
        cells = [(d, c) for d in domains for c in range(7) for _ in range(count)]
        start = 0 if split == "train" else 10_000
        table = {
            "img": [jpeg(start + i, side) for i in range(len(cells))],
            "label": [c for _, c in cells],
            "domain": [d for d, _ in cells],
        }
        parquet.write_table(pyarrow.table(table | columns), folder / f"{split}.parquet")


# -- data -------------------------------------------------------------------------------------------------


def test_validation_is_cut_from_every_class_of_every_domain(tmp_path):
    write(tmp_path)
    data = PACS.load(str(tmp_path), False)
    assert [len(data.split(s)) for s in SPLITS] == [84, 28, 56]
    for split, count in zip(SPLITS, (3, 1, 2), strict=True):
        cells = data.split(split).column("domain") * 7 + data.split(split).y.numpy()
        assert np.bincount(cells, minlength=28).tolist() == [count] * 28
    together = torch.cat([data.split(s).x for s in SPLITS]).flatten(1)
    assert len(together.unique(dim=0)) == 168  # no image twice: nothing leaks from split to split
    assert torch.equal(data.train.x, PACS.load(str(tmp_path), True).train.x)
    assert PACS.partition(data).names == ("art_painting", "cartoon", "photo", "sketch")
    assert PACS.partition(data).sizes("train") == dict.fromkeys(pacs.DOMAINS, 21)


def test_the_halves_of_validation_hold_all_domains_in_random_order(tmp_path):
    write(tmp_path, each=14)
    data = PACS.load(str(tmp_path), False).tuning()
    assert min(PACS.partition(data).sizes("validation").values()) > 3
    assert min(PACS.partition(data).sizes("test").values()) > 3


@pytest.mark.parametrize(("chosen", "side"), [(PACS, 32), (PACS64, 64)], ids=["pacs", "pacs64"])
def test_batches_are_what_the_backbone_takes(chosen, side, tmp_path):
    write(tmp_path)
    data = chosen.load(str(tmp_path), True)
    x = data.inputs("train", torch.arange(4), generator(0))
    assert x.shape == (4, 3, side, side)
    backbone = chosen.backbone(generator(0)).eval()
    assert backbone(x).shape == (4, 7)
    assert scope(backbone).size == 125_832


def test_halving_takes_the_mean_of_two_by_two_pixels():
    x = torch.randint(0, 256, (2, 3, 8, 8), generator=generator(0)).to(torch.uint8)
    means = x.double().view(2, 3, 4, 2, 4, 2).mean((3, 5))
    shift, scale = (255 * torch.tensor(v)[:, None, None] for v in (pacs.NORMALISE.mean, pacs.NORMALISE.std))
    torch.testing.assert_close(pacs.halved(x).double(), (means - shift) / scale, atol=1e-5, rtol=1e-5)


def test_augmentation_is_for_training_and_drawn_per_sample(tmp_path):
    write(tmp_path)
    data = PACS.load(str(tmp_path), True)
    index = torch.zeros(6, dtype=torch.int64)
    assert len(data.inputs("train", index, generator(0)).flatten(1).unique(dim=0)) > 1
    assert len(data.inputs("train", index).flatten(1).unique(dim=0)) == 1
    assert PACS.load(str(tmp_path), False).augment is None


def test_small_cells_keep_a_sample_on_either_side():
    rest, held = pacs.stratified(torch.tensor([0, 1, 1, 2, 2, 2]), 0.01, generator(0))
    assert sorted(torch.cat([rest, held]).tolist()) == list(range(6))
    assert 0 in rest.tolist()  # a single sample is trained on
    assert sorted(np.array([0, 1, 1, 2, 2, 2])[held.numpy()].tolist()) == [1, 2]


@pytest.mark.skipif(not PACS_DATA.is_dir(), reason=f"the PACS files are not there: {PACS_DATA}")
def test_the_real_pacs_has_9991_images_in_four_domains():
    data = PACS.load(str(PACS_DATA), False)
    assert [len(data.split(s)) for s in SPLITS] == [6793, 1200, 1998]
    whole = np.concatenate([data.split(s).column("domain") for s in SPLITS])
    assert np.bincount(whole).tolist() == [2048, 2344, 1670, 3929]
    assert json.loads((PACS_DATA / "class_names.json").read_text()) == {
        "label": pacs.NAMES,
        "domain": pacs.DOMAINS,
    }
    x = pacs.NORMALISE(data.train.x)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=0.01, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=0.01, rtol=0)


def test_a_run_on_mapped_images_has_the_bytes_of_one_on_images_in_memory(tmp_path, monkeypatch):
    write(tmp_path, each=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for share in ("0", "inf"):
        monkeypatch.setenv("TOMBOLA_MEMORY_SHARE", share)
        carried_out(PACS, tmp_path / share, ["rtl"], data=str(tmp_path))
    for name in ("config.yaml", "records.jsonl", "tickets/rtl-0.5.tickets"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "inf" / name).read_bytes()
    assert list((tmp_path / "cache" / "tombola").glob("rows-*"))


# -- bad data ---------------------------------------------------------------------------------------------


def test_a_missing_domain_is_named(tmp_path):
    write(tmp_path, domains=(0, 1, 3))
    with pytest.raises(PartitionError, match="'photo' is empty in the train split"):
        PACS.partition(PACS.load(str(tmp_path), False))


def test_a_domain_without_a_name_is_refused(tmp_path):
    write(tmp_path, domains=range(5))
    with pytest.raises(PartitionError, match="'domain' has values from 0 to 4, but there are 4 names"):
        PACS.partition(PACS.load(str(tmp_path), False))


def test_missing_files_columns_and_other_sizes_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no folder /no/such"):
        PACS.load("/no/such", False)
    with pytest.raises(DataError, match=r"neither train\*\.parquet nor a folder train/"):
        PACS.load(str(tmp_path), False)
    write(tmp_path, each=1, side=32)
    with pytest.raises(DataError, match=r"image 0 is \(32, 32\), 64×64 is needed"):
        PACS.load(str(tmp_path), False)
    parquet.write_table(pyarrow.table({"img": [jpeg(0)], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"needs columns .*domain; it has img, label"):
        PACS.load(str(tmp_path), False)
    (tmp_path / "test.parquet").unlink()
    write_one = pyarrow.table({"img": [jpeg(0)], "label": [0], "domain": [0]})
    parquet.write_table(write_one, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"no test\*\.parquet"):
        PACS.load(str(tmp_path), False)


def test_a_folder_per_class_has_no_domains(tmp_path):
    (tmp_path / "train" / "dog").mkdir(parents=True)
    with pytest.raises(DataError, match="domain needs Parquet files"):
        PACS.load(str(tmp_path), False)


# -- the stand-in -----------------------------------------------------------------------------------------


def test_without_data_seven_digits_under_four_environments_stand_in_and_say_so():
    data = PACS.load(None, False)
    assert data.train.x.shape[1:] == (3, 32, 32)
    assert data.train.x.dtype == torch.uint8
    assert data.train.y.unique().tolist() == list(range(7))
    assert PACS.partition(data).names == ("clean", "rotation", "blur", "noise")
    assert PACS.backbone(generator(0)).eval()(data.inputs("test", torch.arange(3))).shape == (3, 7)
    assert "stand-in" in PACS.data
    assert "no PACS" in pacs.title(data)
    assert pacs.class_names(data)[6] == "6"


# -- pictures ---------------------------------------------------------------------------------------------

TINY = ["T=1", "steps=2", "rewind=0", "statistics=1", "sparsity=[0.5]", "schedule=one_shot"]


def carried_out(chosen, folder, methods, seed=0, data=None, tune=False):
    settings = chosen.preset(None)[1].settings.changed([*TINY, "train.batch_size=8", "search.batch_size=8"])
    order = Order(chosen, "quick", settings, False, data, tune, methods)
    (loaded,) = order.load().values()
    list(order.run(loaded, seed, folder))
    return Finished(folder, "", seed, loaded, chosen)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    methods = ["rtl", "imp", "imp_context", "dense"]
    return [carried_out(CORRUPTIONS, folder / str(seed), methods, seed) for seed in (0, 1)]


def test_a_sheet_of_answers_and_a_chart_are_drawn(runs, tmp_path):
    files = CORRUPTIONS.draw(runs, tmp_path)
    assert [file.name for file in files] == ["corruptions-answers.jpg", "corruptions-accuracy.png"]
    for file in files:
        assert 5_000 < file.stat().st_size < 300_000
        assert min(Image.open(file).size) > 200


def test_the_chart_shows_the_numbers_of_the_records(runs):
    found = accuracies(runs)
    assert set(found) == {("rtl", 0.5), ("imp", 0.5), ("imp_context", 0.5), ("dense", 0.0)}
    assert list(found["rtl", 0.5]) == ["clean", "rotation", "blur", "noise"]
    assert all(len(values) == 2 for values in found["rtl", 0.5].values())


@pytest.mark.parametrize("method", ["rtl", "imp", "imp_context"])
def test_the_answers_on_the_sheet_have_the_accuracy_of_the_records(runs, method):
    from tombola.lab.experiments.pictures import outputs

    data, part = runs[0].data, CORRUPTIONS.partition(runs[0].data)
    right = outputs(runs[0], method, 0.5).argmax(1) == data.test.y
    recorded = accuracies(runs[:1])[method, 0.5]
    for k, name in enumerate(part.names):
        inside = part.members["test"][:, k]
        assert float(right[inside].double().mean()) == pytest.approx(recorded[name][0])


def test_pacs_is_drawn_from_its_parquet_files(tmp_path):
    write(tmp_path, each=3)
    run = carried_out(PACS, tmp_path / "run", ["rtl"], data=str(tmp_path))
    files = PACS.draw([run], tmp_path)
    assert [file.name for file in files] == ["pacs-answers.jpg", "pacs-accuracy.png"]


def test_runs_that_show_nothing_or_not_the_same_are_refused(runs, tmp_path):
    replicate = carried_out(CORRUPTIONS, tmp_path / "twin", ["theta0_magnitude"])
    with pytest.raises(RunError, match="nothing to draw: none of these runs holds rtl, "):
        CORRUPTIONS.draw([replicate], tmp_path)
    tuned = carried_out(CORRUPTIONS, tmp_path / "tuned", ["imp"], tune=True)
    with pytest.raises(RunError, match="have different tune: draw one kind at a time"):
        CORRUPTIONS.draw([runs[0], tuned], tmp_path)


def test_pixels_of_grey_floats_and_of_bytes_are_rgb():
    grey = torch.tensor([[[0.0, 1.0]]])
    assert pixels(grey).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert pixels(torch.full((3, 1, 1), 7, dtype=torch.uint8)).tolist() == [[[7, 7, 7]]]


def test_settings_of_the_presets_are_valid():
    for chosen in (PACS, PACS64, CORRUPTIONS):
        for preset in chosen.presets.values():
            assert isinstance(preset.settings, Settings)
            assert preset.settings.sparsity == (0.25, 0.5, 0.75)
