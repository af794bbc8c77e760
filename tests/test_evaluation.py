"""Routing, calibration and prediction from finished runs: what is measured, written, saved and refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tombola._utils.errors import CalibrationError, DataError, RunError
from tombola._utils.rng import generator
from tombola.cli.main import main
from tombola.data.dataset import Data
from tombola.lab.evaluation.inputs import inputs_of
from tombola.lab.evaluation.loaded_run import open_run, open_runs
from tombola.lab.evaluation.precision import macro, measure, single_recall
from tombola.lab.evaluation.router_evaluator import HOLD, stream
from tombola.lab.evaluation.tables import over_seeds
from tombola.lab.report.inspect import describe
from tombola.lab.report.page import made_by, put_tables
from tombola.lab.report.tables import Table
from tombola.tickets.calibration import Calibration
from tombola.tickets.inputs import known
from tombola.tickets.model import load
from tombola.tickets.routing import PrototypeRouter

FAST = ["--threads", "1", "--set", "T=1", "steps=2", "statistics=1"]


def tombola(*arguments):
    """A command that has to succeed."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert left.value.code == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Hardly trained runs of two experiments: contexts that are given, and class tickets."""
    out = tmp_path_factory.mktemp("runs")
    for name, more in (("corruptions", ["rewind=2"]), ("digits", [])):
        options = ["--sparsity", "0.5", "--out", out, *FAST, *more]
        tombola("run", name, "--method", "rtl", "imp", "dense", *options)
    return out


@pytest.fixture
def run(runs, capsys):
    capsys.readouterr()
    return runs / "corruptions-quick" / "seed0"


def rows_of(capsys, *arguments):
    tombola(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def value(rows, router, metric):
    return next(
        r["mean"] for r in rows if r["router"] == router and r["metric"] == metric and "window" not in r
    )


# -- routing --------------------------------------------------------------------------------------------


def test_routing_is_measured_between_the_best_fixed_ticket_and_the_oracle(run, capsys):
    rows = rows_of(capsys, "route", run, "--router", "prototype", "score")
    loaded = open_run(run)
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    judged = [r for r in records if r.get("metric") == "accuracy" and "ticket" not in r]
    of_method = {r["method"]: r["value"] for r in judged}
    assert value(rows, "oracle", "accuracy") == pytest.approx(of_method["rtl"])
    assert value(rows, "imp", "accuracy") == pytest.approx(of_method["imp"])
    assert value(rows, "dense", "accuracy") == pytest.approx(of_method["dense"])
    fixed, oracle = (value(rows, who, "accuracy") for who in ("best_fixed", "oracle"))
    for who in ("prototype", "score", "random", "imp"):
        gap = (value(rows, who, "accuracy") - fixed) / (oracle - fixed)
        assert value(rows, who, "gap_closed") == pytest.approx(gap)
    shares = {
        (r["context"], r["ticket"]): r["mean"]
        for r in rows
        if r["metric"] == "routed_share" and r["router"] == "score"
    }
    for context in loaded.partition.names:
        assert sum(shares[context, t] for t in loaded.partition.names) == pytest.approx(1)
    sizes = loaded.partition.sizes("test")
    right = sum(shares[c, c] * sizes[c] for c in sizes) / sum(sizes.values())
    assert value(rows, "score", "routing_accuracy") == pytest.approx(right)
    assert 0 < value(rows, "score", "ms_route_1") < 60_000
    lone = [r for r in rows if r.get("window") == 1 and r["margin"] == 0 and r["router"] == "score"]
    found = {r["metric"]: r["mean"] for r in lone}
    assert found["routing_accuracy"] == pytest.approx(right)
    assert found["accuracy"] == pytest.approx(value(rows, "score", "accuracy"))


def test_the_best_fixed_ticket_is_chosen_on_validation_data(run):
    loaded = open_run(run)
    held = loaded.judged_on_validation()
    assert torch.equal(held.data.test.x, loaded.data.validation.x)
    assert torch.equal(held.partition.members["test"], loaded.partition.members["validation"])
    assert torch.equal(held.data.train.x, loaded.data.train.x)


def test_tickets_answer_among_the_classes_of_their_own_context(run):
    loaded = open_run(run)
    assert loaded.classes_KC is None  # all environments hold all digits
    few = torch.zeros(4, 10, dtype=torch.bool)
    few[:, :3] = True
    vars(loaded)["classes_KC"] = few  # as if each knew three classes

    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.arange(10.0).expand(len(x), 10)  # class 9 leads

    name, found = loaded.quality([Always()] * 4, loaded.where("test"))
    of_context = [
        float((loaded.data.test.y[loaded.partition.members["test"][:, k]] == 2).double().mean())
        for k in range(4)
    ]
    assert (name, found) == ("accuracy", pytest.approx(sum(of_context) / 4))


def test_class_tickets_have_an_oracle_that_is_called_leakage(runs, capsys):
    capsys.readouterr()
    rows = rows_of(capsys, "route", runs / "digits-quick", "--router", "score")
    assert value(rows, "oracle (leakage: the context is the label)", "accuracy") == 1.0
    assert value(rows, "score", "accuracy") == value(rows, "score", "routing_accuracy")
    assert not any(r["metric"] == "gap_closed" for r in rows)


def test_tables_of_routing_fit_a_terminal(run, capsys, monkeypatch):
    monkeypatch.setattr("tombola.cli.terminal.out_console.width", 80)
    tombola("route", run, "--router", "prototype", "gate")
    out = capsys.readouterr().out
    assert "right" in out
    assert "passes" in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_rows_are_kept_for_the_report(run, capsys, tmp_path):
    assert rows_of(capsys, "route", run, "--router", "prototype", "--keep", tmp_path / "routing.json") == (
        json.loads((tmp_path / "routing.json").read_text())
    )


@pytest.mark.parametrize("first", ["route", "calibrate"])
def test_a_router_and_a_calibration_share_a_file(run, capsys, tmp_path, first):
    commands = {"route": ["route", run, "--router", "gate"], "calibrate": ["calibrate", run]}
    for name in (first, *(other for other in commands if other != first)):
        tombola(*commands[name], "--save", tmp_path)
    capsys.readouterr()
    file = tmp_path / "seed0" / "rtl-0.5.tickets"
    tombola("inspect", file, "--json")
    metadata = json.loads(capsys.readouterr().out)
    assert metadata["method"] == "rtl"
    assert metadata["router"]["kind"] == "gate"
    assert metadata["calibration"]["of"]
    tombola("inspect", file)
    out = capsys.readouterr().out
    assert "router: gate " in out
    assert "mix=1" in out
    assert "calibration: " in out
    tombola("route", run, "--router", "prototype", "--save", tmp_path)  # another router takes its place
    capsys.readouterr()
    tombola("inspect", file, "--json")
    metadata = json.loads(capsys.readouterr().out)
    assert metadata["router"]["kind"] == "prototype"
    assert metadata["calibration"]


def test_what_was_fitted_on_other_tickets_is_left_behind(run, tmp_path):
    loaded = open_run(run)
    tickets = loaded.tickets("rtl", 0.5)
    tickets.router = PrototypeRouter().fit(tickets, loaded.data, loaded.partition)
    loaded.save(tickets, tmp_path, "a")
    others = loaded.tickets("rtl", 0.5)
    others.private_KP.data += 1
    loaded.save(others, tmp_path, "a")
    assert load(tmp_path / "seed0" / "a.tickets", loaded.backbone).router is None
    plain = load(run / "tickets" / "rtl-0.5.tickets", loaded.backbone)
    loaded.save(tickets, tmp_path, "b")
    loaded.save(plain, tmp_path, "b")
    assert load(tmp_path / "seed0" / "b.tickets", loaded.backbone).router.kind == "prototype"


def test_a_stream_holds_each_context_and_every_sample_once():
    truth = torch.randint(3, (400,), generator=generator(0, "truth"))
    order = stream(truth, 3, seed=1)
    assert order.sort().values.tolist() == list(range(400))
    assert (truth[order][:HOLD] == 0).all()
    assert (truth[order][HOLD : 2 * HOLD] == 1).all()
    assert torch.equal(order, stream(truth, 3, seed=1))


def test_pages_are_written_twice_alike_and_keep_words_and_other_rows(run, capsys, tmp_path):
    page = tmp_path / "routing.md"
    page.write_text(
        "# Routing\n\nwords\n\n<!-- tables: made by `tombola route` -->\n<!-- end of tables -->\nafter\n"
    )
    arguments = ["route", str(run), "--router", "prototype", "--write", str(page)]
    tombola(*arguments)
    text, replicate = page.read_text(), json.loads(page.with_suffix(".json").read_text())
    assert text.startswith("# Routing\n\nwords")
    assert text.endswith("after\n")
    assert "| prototype | 50% | 1 |" in text
    other = {"experiment": "another", "preset": "p", "sparsity": 0.5, "router": "gate", "metric": "accuracy"}
    page.with_suffix(".json").write_text(
        json.dumps([*replicate, {**other, "mean": 1.0, "ci95": None, "seeds": 1}])
    )
    tombola(*arguments)
    again = json.loads(page.with_suffix(".json").read_text())
    assert len(again) == len(replicate) + 1
    timed = [r for r in again if r["experiment"] != "another" and not r["metric"].startswith("ms_")]
    assert timed == [r for r in replicate if not r["metric"].startswith("ms_")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--router", "prototyp"], "did you mean 'prototype'"),
        (["--router", "context"], "no router to fit 'context'"),
        (["--set", "mix=2"], "say which with --router"),
        (["--router", "gate", "--set", "mix"], "NAME=VALUE"),
        (["--sparsity", "0.4"], "no sparsity of rtl"),
        (["--method", "imp"], "imp has a single network"),
        (["--method", "rtll"], "there is no method 'rtll'; did you mean 'rtl'"),
        (["--router", "gate", "--set", "mix=3"], "mix is 1"),
        (["--router", "gate", "--set", "mix=["], "the value cannot be read"),
        (["--router", "gate", "--set", "depht=1"], "has no such option"),
        (["--write", "page.html"], "Markdown"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, run, capsys):
    with pytest.raises(SystemExit) as left:
        main(["route", str(run), *arguments])
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_what_a_run_does_not_have_is_no_bad_argument(run, capsys):
    for arguments, words in ((["--method", "twin"], "holds no tickets/twin-"), (["--data", "x"], "")):
        with pytest.raises(SystemExit) as left:
            main(["route", str(run), *arguments])
        assert left.value.code == (1 if words else 2)
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--method", "imp"], "imp has a single network"), (["--sparsity", "0.4"], "no sparsity of rtl")],
)
def test_calibrate_names_what_has_no_tickets_as_route_does(arguments, words, run, capsys):
    with pytest.raises(SystemExit):
        main(["calibrate", str(run), *arguments])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("route", "--write", "mine.md"), "mine.md has no place for tables"),
        (("calibrate", "--write", "mine.md"), "mine.md has no place for tables"),
        (("route", "--sparsity", "0.5", "0.4"), "no sparsity of rtl"),
        (("route", "other"), "was made by a program of your own"),
        (("calibrate", "other"), "was made by a program of your own"),
        (("stream",), "stream enhances sound"),
    ],
)
def test_all_runs_are_looked_at_before_any_is_fitted(arguments, words, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.md").write_text("<!-- tables: made by `tombola compare` -->\n<!-- end of tables -->\n")
    Path("other").mkdir()
    Path("other/config.yaml").write_text("{seed: 0, settings: {}, experiment: null}")
    Path("other/records.jsonl").write_text("")
    monkeypatch.setattr("tombola.cli.route.measure", None)
    monkeypatch.setattr("tombola.cli.calibrate.within", None)
    with pytest.raises(SystemExit):
        main([arguments[0], str(run), *arguments[1:]])
    assert words in capsys.readouterr().err


def test_runs_on_the_same_data_read_them_once(run, monkeypatch):
    from tombola.lab.launch import Order

    load, loads = Order.load, []
    monkeypatch.setattr(Order, "load", lambda self: loads.append(self) or load(self))
    first, second = open_runs([run, run])
    assert first.data is second.data
    assert len(loads) == 1


def test_other_data_than_the_runs_are_refused(run, monkeypatch):
    from tombola.lab.launch import Order

    load = Order.load

    def altered(self):
        (data,) = load(self).values()
        return {"": Data(data.train, data.validation, data.validation, data.prepare)}

    monkeypatch.setattr(Order, "load", altered)
    with pytest.raises(RunError, match="made with other data"):
        open_run(run)


# -- calibration ----------------------------------------------------------------------------------------


def world_of_scores(count=1200, K=4):
    g = generator(0, "scores")
    found, members = {}, {}
    for split in ("validation", "test"):
        truth = torch.randint(K, (count,), generator=g)
        members[split] = torch.nn.functional.one_hot(truth, K).bool()
        found[split] = torch.randn(count, K, generator=g) + 2.5 * members[split] - 0.5
    return found, members


def test_all_readings_of_one_score_matrix():
    scores, members = world_of_scores()
    values = measure(scores, members, single_recall(scores["validation"], members["validation"]))
    found = {(v["reading"], v["metric"]): v["value"] for v in values if "bin" not in v and "recall" not in v}
    assert found["probability one half", "recall"] > found["prior shift", "recall"]
    assert found["probability one half", "precision"] < found["prior shift", "precision"]
    for method in ("platt", "isotonic"):
        assert found[method, "ece"] < found["plain scores", "ece"]
    plain = float((scores["test"].argmax(1) == members["test"].int().argmax(1)).double().mean())
    assert found["coupled: argmax", "accuracy"] == pytest.approx(plain)
    assert found["coupled: vector", "accuracy"] == pytest.approx(plain, abs=0.03)  # nothing to be gained here
    assert found["coupled: vector", "missed"] == pytest.approx(0.1, abs=0.03)
    assert (
        found["platt, then prior by EM", "error_of_prior"] < 0.03
    )  # calibrated scores know it, plain ones do not
    assert found["prior by EM", "error_of_prior"] > 0.1
    curve = [v["value"] for v in values if v["reading"] == "plain scores" and "recall" in v]
    assert curve == sorted(curve, reverse=True)
    wanted = single_recall(scores["validation"], members["validation"])
    assert found["each ticket, at the single mask's recall", "recall"] == pytest.approx(wanted, abs=0.06)


def test_macro_is_the_mean_over_tickets():
    yes = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]]).bool()
    true = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 1]]).bool()
    assert macro(yes, true) == {"balanced_accuracy": 0.75, "precision": 0.75, "recall": 0.75}


def test_calibrating_a_run_saves_copies_and_leaves_the_run(runs, capsys, tmp_path):
    run = runs / "digits-quick" / "seed0"
    before = {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    capsys.readouterr()
    rows = rows_of(capsys, "calibrate", run, "--save", tmp_path)
    assert {r["method"] for r in rows} == {"rtl", "imp"}
    assert {f: f.read_bytes() for f in run.rglob("*") if f.is_file()} == before
    image = tmp_path / "eight.png"
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(image)
    file = tmp_path / "seed0" / "rtl-0.5.tickets"
    (answer,) = rows_of(capsys, "predict", file, image)
    assert answer["ticket"] == answer["answer"]
    assert "coupled by vector" in answer["why"]
    (named,) = rows_of(capsys, "predict", file, image, "--ticket", "eight")
    assert named["answer"] in ("yes", "no")
    assert named["ticket"] == "eight"


def test_several_sparsities_are_calibrated_each_by_itself(runs, capsys, tmp_path):
    run = tmp_path / "seed0"
    shutil.copytree(runs / "digits-quick" / "seed0", run)
    loaded = open_run(run)
    tickets = loaded.tickets("rtl", 0.5)
    first = tickets.names[0]  # with another mask, so that what was fitted at one sparsity does not fit them
    tickets[first] = tickets[first] & (torch.arange(tickets.scope.size) >= 9)
    tickets.save(run / "tickets" / "rtl-0.75.tickets")
    capsys.readouterr()
    rows = rows_of(capsys, "calibrate", run, "--save", tmp_path / "out")
    assert {r["sparsity"] for r in rows} == {0.5, 0.75}
    files = sorted((tmp_path / "out" / "seed0").iterdir())
    assert len({load(file, loaded.backbone).calibration.made_for for file in files}) == 2


def test_classes_within_contexts_are_calibrated_by_temperature(run, capsys, tmp_path):
    rows = rows_of(capsys, "calibrate", run, "--save", tmp_path)
    (file,) = tmp_path.rglob("rtl-*.tickets")
    assert describe(file)["calibration"] == {"of": "classes", "method": "temperature"}
    found = {(r["reading"], r["metric"]): r["mean"] for r in rows}
    assert found["plain", "accuracy"] == found["temperature", "accuracy"]
    assert {metric for _, metric in found} == {"accuracy", "ece", "brier"}


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_ticket_file_that_was_damaged_is_mended_by_resume(run, tmp_path, capsys, damage):
    copy = tmp_path / "seed0"
    shutil.copytree(run, copy)
    file = copy / "tickets" / "rtl-0.5.tickets"
    content, records = file.read_bytes(), (copy / "records.jsonl").read_bytes()
    if damage == "altered":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.unlink()
    tombola("resume", copy)
    assert "rtl at 50%: ticket file mended" in "".join(capsys.readouterr())
    assert file.read_bytes() == content
    assert (copy / "records.jsonl").read_bytes() == records


def test_what_does_nothing_for_classes_within_contexts_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        main(["calibrate", str(run), "--scaling", "isotonic"])
    assert "get a temperature, so --scaling, --coupling" in capsys.readouterr().err
    loaded = open_run(run)
    with pytest.raises(CalibrationError, match="classes within a context get a temperature"):
        Calibration(miss=0.1).fit(loaded.tickets("rtl", 0.5), loaded.data, loaded.partition)


# -- prediction -----------------------------------------------------------------------------------------


def test_predict_gives_the_output_where_that_is_the_answer(tmp_path, capsys):
    fast = ["--sparsity", "0.5", "--set", "T=2", "steps=3", "rewind=2", "--out", tmp_path]
    tombola("run", "inr", "--item", "flower", "--method", "rtl", *fast)
    tombola("route", tmp_path / "inr-quick", "--router", "gate", "--save", tmp_path / "routed")
    (file,) = (tmp_path / "routed").rglob("*.tickets")
    (tmp_path / "xy.csv").write_text("x,y\n0.1,0.2\n-0.5,0.5\n")
    capsys.readouterr()
    colours = [row["answer"] for row in rows_of(capsys, "predict", file, tmp_path / "xy.csv")]
    assert [len(colour) for colour in colours] == [3, 3]
    assert all(isinstance(value, float) for colour in colours for value in colour)


def test_predict_says_who_answered_how_surely_and_why(run, capsys, tmp_path):
    tombola("route", run, "--router", "prototype", "--save", tmp_path)
    capsys.readouterr()
    loaded, file = open_run(run), tmp_path / "seed0" / "rtl-0.5.tickets"
    table, white = tmp_path / "digits.csv", tmp_path / "white.png"
    lines = [",".join(f"{v:.6f}" for v in x.flatten().tolist()) for x in loaded.data.test.x[:40]]
    table.write_text("\n".join([",".join(f"p{i}" for i in range(64)), *lines]))
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(white)
    answers = rows_of(capsys, "predict", file, table, white)
    assert len(answers) == 41
    assert [a["input"] for a in answers[:2]] == ["digits.csv:1", "digits.csv:2"]
    truth = [loaded.partition.names[k] for k in loaded.where("test")[:40].tolist()]
    right = sum(a["ticket"] == name for a, name in zip(answers, truth, strict=False))
    assert right > 25  # untrained features tell environments apart as well
    assert answers[-1]["confidence"] < 0.1
    assert "unlike what was seen before" in answers[-1]["why"]
    capsys.readouterr()
    tombola("predict", file, white)
    assert "8x8 in 1 channels" not in capsys.readouterr().err  # nothing was changed
    Image.fromarray(np.full((9, 11, 3), 255, np.uint8)).save(white)
    tombola("predict", file, white)
    assert "white.png: 11x9 in 3 channels was brought to 8x8 in 1" in capsys.readouterr().err
    tombola("predict", file, white)
    assert "white.png" in capsys.readouterr().out


def test_files_of_a_run_are_asked_where_they_lie_and_others_need_their_network(run, capsys, tmp_path):
    file, white = run / "tickets" / "rtl-0.5.tickets", tmp_path / "white.png"
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(white)
    (answer,) = rows_of(
        capsys, "predict", file, white, "--ticket", load(file, open_run(run).backbone).names[0]
    )
    assert answer["why"] == "named"
    shutil.copy(file, tmp_path / "a.tickets")
    with pytest.raises(SystemExit) as left:
        main(["predict", str(tmp_path / "a.tickets"), str(white)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "does not say which network its tickets belong to: give --backbone digits, the experiment" in said
    given = ("--backbone", "digits", "--ticket", answer["ticket"])
    assert rows_of(capsys, "predict", tmp_path / "a.tickets", white, *given)[0]["answer"] == answer["answer"]


def test_inputs_are_brought_to_the_networks_size_and_channels(tmp_path):
    metadata = {
        "kind": "values",
        "shape": [3, 4, 6],
        "bytes": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.25, 1.0],
    }
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(tmp_path / "grey.png")
    x = inputs_of(tmp_path / "grey.png", known({"input": metadata}))
    assert x.shape == (1, 3, 4, 6)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([1.0, 2.0, 0.5]))


def test_sounds_become_spectrograms_however_short(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(300), 16_000)
    assert inputs_of(tmp_path / "a.wav", known({"input": {"kind": "sound"}})).shape[:2] == (1, 2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "there is no file"),
        ("a.doc", b"1", "none of an image"),
        ("a.txt", b"1", "lines of text, which these tickets do not take"),
        ("a.wav", b"1", "not sounds"),
        ("a.npy", b"1", "no array that can be read"),
        ("a.png", b"1", "CSV of numbers"),
        ("empty.csv", b"\n", "no rows of numbers"),
        ("short.csv", b"1,2\n3\n", r"row 2 of numbers, has 1 values: 2 numbers"),
        ("nan.csv", b"1,2\n3,nan\n", "row 2 of numbers, has 'nan' in column 2, no finite number"),
        ("binary.csv", b"\xff\xfe\x00", "no table"),
    ],
)
def test_files_that_are_no_inputs_are_named(name, content, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    metadata = {"kind": "values", "shape": [2], "bytes": False, "mean": None, "std": None}
    with pytest.raises(DataError, match=words):
        inputs_of(tmp_path / name, known({"input": metadata}))


def test_arrays_are_samples_as_they_were_in_training(tmp_path):
    metadata = {"kind": "values", "shape": [2, 3], "bytes": False, "mean": None, "std": None}
    file, values = tmp_path / "x.npy", np.arange(12.0).reshape(2, 2, 3)
    for several in (values, values[0]):
        np.save(file, several)
        found = inputs_of(file, known({"input": metadata}))
        assert found.dtype == torch.float32
        assert found.tolist() == several.reshape(-1, 2, 3).tolist()
    np.save(file, np.full((1, 2, 3), 7, np.uint8))
    assert inputs_of(file, known({"input": {**metadata, "bytes": True}})).dtype == torch.uint8
    for bad, words in (
        (values[:, :1], r"holds float64 \[2, 1, 3\]: numbers \[B, 2, 3\] is needed"),
        (np.array([[["a"] * 3] * 2]), r"<U1"),
        (np.full((1, 2, 3), 7, np.uint8), "holds uint8: these tickets were trained on numbers"),
        (values * np.nan, r"NaN or infinite values in 2 of 2 samples \(the first is number 1, at \[0, 0\]"),
        (values[:0], "no samples"),
    ):
        np.save(file, bad)
        with pytest.raises(DataError, match=words):
            inputs_of(file, known({"input": metadata}))


def test_a_broken_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    metadata = {"kind": "values", "shape": [1, 8, 8], "bytes": False, "mean": None, "std": None}
    with pytest.raises(DataError, match="no picture that can be read"):
        inputs_of(tmp_path / "a.png", known({"input": metadata}))


# -- rows -----------------------------------------------------------------------------------------------


def test_rows_are_means_with_intervals_over_seeds():
    rows = over_seeds([{"metric": "a", "seed": s, "value": v} for s, v in enumerate((1.0, 2.0, 3.0))])
    assert rows == [{"metric": "a", "mean": 2.0, "ci95": pytest.approx(2.484, abs=1e-3), "seeds": 3}]


@pytest.mark.parametrize("text", ["# no marks\n", "<!-- tables: made by `tombola route` -->\n"])
def test_a_page_without_a_place_for_tables_is_refused(text, tmp_path):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(DataError, match="no place for tables"):
        put_tables(tmp_path / "page.md", made_by("route"), [], [Table("t", ["a"], [["1"]])])


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', "[3]", '[{"experiment": "e"}]'])
def test_a_damaged_twin_is_refused(tmp_path, content):
    (tmp_path / "page.json").write_text(content)
    row = {"experiment": "e", "preset": "p", "sparsity": 0.5}
    with pytest.raises(DataError, match="is damaged"):
        put_tables(tmp_path / "page.md", made_by("route"), [row], [])
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.md").mkdir()
    for name in ("bytes", "folder"):
        with pytest.raises(DataError, match=f"{name}.md is no page that can be read"):
            put_tables(tmp_path / f"{name}.md", made_by("route"), [row], [])


def test_numbers_of_another_scale_are_remarked_on(tmp_path):
    said, metadata = [], {"kind": "values", "shape": [2], "bytes": False, "mean": None, "range": [0.0, 1.0]}
    for name, row in (("same", "0,1.2"), ("other", "0,16")):
        (tmp_path / f"{name}.csv").write_text(row)
        inputs_of(tmp_path / f"{name}.csv", known({"input": metadata}), said.append)
    (line,) = said
    assert "from 0 to 16, in training they were from 0 to 1" in line
