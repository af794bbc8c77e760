"""Sweeps: what a grid is, what its runs share, what the page shows."""

import json
import sys
from xml.etree import ElementTree

import pytest
import torch

import tombola as tb
from tombola._utils import io
from tombola._utils.errors import UsageError
from tombola.cli import main as cli
from tombola.lab.experiments import experiment
from tombola.lab.launch import Order
from tombola.lab.report.charts import save
from tombola.lab.report.curves import measure, values
from tombola.lab.report.sweep import chart, heats, table
from tombola.lab.sweep import grid, split, with_controls
from tombola.methods.table import METHODS
from tombola.runs.directory import Run
from tombola.runs.log import read_records

TINY = ["steps=2", "statistics=1", "rewind=1", "train.batch_size=16", "search.batch_size=16"]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([str(argument) for argument in arguments]))
    out, err = capsys.readouterr()
    torch.set_num_threads(1)
    return stop.value.code or 0, out, err


# -- the grid --------------------------------------------------------------------------------------------


def base():
    return Order(experiment("digits"), "quick", tb.Settings(), False, None, methods=["imp"])


def test_a_grid_has_every_combination_with_the_last_setting_fastest(tmp_path):
    points = grid(base(), tmp_path, ["T=5,10", "steps=7", "schedule=fraction:0.2,one_shot"])
    assert [p.label for p in points] == [
        "T=5, schedule=fraction:0.2",
        "T=5, schedule=one_shot",
        "T=10, schedule=fraction:0.2",
        "T=10, schedule=one_shot",
    ]
    assert [(p.order.settings.T, p.order.settings.schedule) for p in points][1] == (5, "one_shot")
    assert {p.order.settings.steps for p in points} == {7}
    assert len({p.folder for p in points}) == 4
    assert all(p.folder.parent == tmp_path and ":" not in p.folder.name for p in points)
    (one,) = grid(base(), tmp_path, ["steps=7"])
    assert (one.label, one.folder) == ("", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("T", "written NAME=V1,V2"),
        ("T=5,5", "needed once"),
        ("TT=1,2", "setting"),
        ("T=-1,2", "at least 0: got -1$"),
        ("search.lr_schedule=step:0.6,0.85", "search.lr_schedule is text, .* semicolons do"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(change, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        grid(base(), tmp_path, [change])


def test_values_with_commas_of_their_own():
    assert split("train.options={betas: [0.9, 0.99]},{}")[1] == ["{betas: [0.9, 0.99]}", "{}"]
    assert split("search.lr_schedule=step:0.6,0.85;") == ("search.lr_schedule", ["step:0.6,0.85"])
    assert split("schedule=explicit:0.1,0.2;one_shot") == ("schedule", ["explicit:0.1,0.2", "one_shot"])


def test_every_method_has_controls_and_the_dense_network_beside_it():
    for name in METHODS:
        found = with_controls([name])
        assert found[0] == name
        assert "dense" in found
        assert len(found) > 1 or name == "dense"
    assert {"random_mask", "theta0_magnitude"} < set(with_controls(["rtl"]))
    assert "random_pruning" in with_controls(["snip"])


# -- figures ---------------------------------------------------------------------------------------------


def row(method, sparsity, mean, ci95=None, metric="accuracy", reading="like_for_like"):
    return {
        "method": method, "sparsity": sparsity, "mean": mean, "ci95": ci95, "metric": metric,
        "reading": reading, "seeds": 3,
    }  # fmt: skip


ROWS = [
    row("imp", 0.9, 0.7, 0.01),
    row("imp", 0.5, 0.8),
    row("imp", 0.5, 0.1, reading="paper"),
    row("dense", 0.0, 0.9),
    row("random_mask", 0.5, 0.6),
    row("imp", 0.5, 123.0, metric="union"),
]


def test_a_curve_has_the_common_reading_a_level_line_for_dense_and_dashes_for_controls(tmp_path):
    assert [r["mean"] for r in values(ROWS, "accuracy")["imp"]] == [0.8, 0.7]
    made = chart(ROWS, "accuracy", "digits")
    points = made.frame[["series", "kind", "x", "y"]].to_numpy().tolist()
    assert points == [
        ["imp", "measured", 0.5, 0.8],
        ["imp", "measured", 0.9, 0.7],
        ["dense", "measured", 0.0, 0.9],
        ["dense", "measured", 0.9, 0.9],
        ["random_mask", "control", 0.5, 0.6],
    ]
    save([[made]], tmp_path / "curve.svg")
    svg = ElementTree.parse(tmp_path / "curve.svg").getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(svg.itertext())
    assert all(name in text for name in ("imp", "dense", "random_mask", "control", "digits"))
    assert "var(" not in (tmp_path / "curve.svg").read_text()


def test_the_table_says_the_same_and_names_controls():
    made = table(ROWS, "accuracy", "digits")
    assert made.header == ["accuracy", "dense", "50%", "90%", "seeds"]
    assert made.body[0] == ["imp", "", "0.800", "0.700 ± 0.010", "3"]
    assert made.body[1][:2] == ["dense", "0.900"]


def test_a_measure_that_is_not_there_is_named():
    assert measure(ROWS) == "accuracy"
    with pytest.raises(UsageError, match="accuracy"):
        measure(ROWS, "psnr")


def test_a_heat_map_for_two_settings_and_none_for_another_number():
    points = [
        ({"T": t, "p": p}, [row("imp", 0.5, 0.1 * float(t) + float(p))]) for t in "12" for p in ("0.2", "0.4")
    ]
    (made,) = heats(points[:3], "accuracy", ["imp"])
    assert made.table.header == ["", "p=0.2", "p=0.4"]
    assert made.table.body == [["T=1", "0.300", "0.500"], ["T=2", "0.400", ""]]  # a point is missing
    assert heats([({"T": "1"}, ROWS)], "accuracy", ["imp"]) == []
    assert heats([({}, ROWS)], "accuracy", ["imp"]) == []


# -- runs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweeps")
    command = [
        "sweep", "digits", "--method", "imp", "--sparsity", "0.8", "--out", str(out), "--threads", "1",
        "--json", "--set", "T=1,2", "schedule=fraction:0.6,one_shot", *TINY,
    ]  # fmt: skip
    return out, command


def test_a_sweep_writes_a_page_rows_and_figures_and_is_not_done_twice(swept, capsys):
    out, command = swept
    status, printed, _ = call(capsys, *command)
    assert status == 0
    folder = out / "digits-quick"
    rows = json.loads(printed)
    assert rows == json.loads((folder / "sweep.json").read_text())
    assert {tuple(r["grid"].values()) for r in rows} == {
        (t, s) for t in "12" for s in ("fraction:0.6", "one_shot")
    }
    assert {r["method"] for r in rows} == {"imp", "dense", "random_pruning", "reinit"}
    page = (folder / "sweep.html").read_text()
    assert (
        page.count('<figure class="chart">') == 4 + 1
    )  # a curve for each point, a heat map for each sparsity
    assert "imp at 80%: accuracy over T (down) and schedule" in page
    assert {f.name for f in folder.glob("*.svg")} == {
        *(f"sweep-{i}.svg" for i in range(4)),
        "heat-0.svg",
    }
    before = {f: f.stat().st_mtime_ns for f in folder.glob("*/seed0/stages/*")}
    assert call(capsys, *command)[1] == printed
    assert {f: f.stat().st_mtime_ns for f in folder.glob("*/seed0/stages/*")} == before


def test_dense_training_and_rewind_point_are_computed_once_and_are_those_of_a_run_alone(
    swept, capsys, tmp_path
):
    out, _ = swept
    folder = out / "digits-quick"
    assert len(list((folder / "shared").glob("*.safetensors"))) == 2
    alone = [
        "run",
        "digits",
        "--method",
        "imp",
        "dense",
        "random_pruning",
        "reinit",
        "--sparsity",
        "0.8",
    ]
    where = ["--out", tmp_path, "--threads", "1", "--json", "--set", "T=2", "schedule=one_shot", *TINY]
    assert call(capsys, *alone, *where)[0] == 0
    run, point = tmp_path / "digits-quick" / "seed0", folder / "T=2,schedule=one_shot" / "seed0"
    assert sorted(map(str, read_records(run))) == sorted(map(str, read_records(point)))
    for file in run.glob("tickets/*"):
        assert file.read_bytes() == (point / "tickets" / file.name).read_bytes()


def test_a_stage_that_was_interrupted_here_and_finished_elsewhere_is_copied_whole(tmp_path):
    def compute(stage):
        for i in range(4):
            stage.record(event="step", i=i)
            stage.save(lambda: {"x": torch.ones(1)}, {})
            stage.advance(i, 4)
        return {"x": torch.arange(3.0)}, {"n": 1}

    def die(name, done, total):
        raise KeyboardInterrupt

    config = {"seed": 0, "settings": tb.Settings().plain(), "methods": []}
    options = {"save_seconds": 0.0, "shared": tmp_path / "shared"}
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "a", config, die, **options) as run:
        run.get_or_compute("stage", compute, "key")
    with Run(tmp_path / "b", config, **options) as run:
        run.get_or_compute("stage", compute, "key")
    with Run(tmp_path / "a", config, **options) as run:
        tensors, metadata = run.get_or_compute("stage", lambda stage: pytest.fail("computed again"), "key")
    assert (tensors["x"].tolist(), metadata) == ([0, 1, 2], {"n": 1})
    assert (tmp_path / "a/records.jsonl").read_bytes() == (tmp_path / "b/records.jsonl").read_bytes()
    stages = [io.read(tmp_path / name / "stages/stage.safetensors")[1] for name in "ab"]
    assert stages[0] == stages[1]


def test_a_sweep_of_an_experiment_with_items_is_refused(capsys, tmp_path):
    status, _, error = call(capsys, "sweep", "inr", "--out", tmp_path)
    assert status == 2
    assert "network per item" in error
