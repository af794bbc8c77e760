"""The command line: what it prints, what it refuses, and with which status."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import tombola
import tombola as tb
from tombola._utils.errors import LAB, UsageError
from tombola.cli import main as cli
from tombola.cli import terminal
from tombola.cli.options import apart
from tombola.lab.experiments import EXPERIMENTS, Experiment, Preset
from tombola.lab.report.page import made_by
from tombola.lab.report.rows import rows as rows_of
from tombola.methods.table import STANDARD
from tombola.objectives.metrics import metric_info

COMMANDS = (
    *("run", "sweep", "resume", "compare", "draw", "report", "enhance", "inspect", "experiments"),
    *("route", "calibrate", "predict", "watch", "collapse", "semantics", "export"),
)
TINY = ["--set", "T=1", "steps=2", "schedule=one_shot", "statistics=1", "--sparsity", "0.5"]
ROW = {"experiment", "preset", "method", "sparsity", "metric", "mean", "ci95", "seeds"}


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)


def call(capsys, *arguments):
    """Status, output and error of a command."""
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([str(argument) for argument in arguments]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of two methods on digits, made by the command line itself."""
    out = tmp_path_factory.mktemp("runs")
    command = [
        "run",
        "digits",
        "--method",
        "rtl",
        "imp",
        *TINY,
        "--seed",
        "0",
        "1",
        "--out",
        str(out),
        "--json",
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert not stop.value.code
    return out / "digits-quick"


def bad(capsys, status, *arguments):
    """The one line of a command that is refused."""
    found, out, err = call(capsys, *arguments)
    assert (found, out) == (status, "")
    assert err.startswith("tombola: ")
    assert len(err.splitlines()) == 1
    return err


# -- bad arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "digit"], "did you mean 'digits'"),
        (["run", "digits", "--method", "rtl", "inp"], "did you mean 'imp'"),
        (["run", "digits", "--preset", "quik"], "did you mean 'quick'"),
        (["run", "digits", "--sparsity", "1.5"], "1.5"),
        (["run", "digits", "--sparsity", "half"], "half"),
        (["run", "digits", "--sparsity", "0.5", "0.5"], "0.5, 0.5"),
        (["run", "digits", "--wheels", "4"], "--wheels"),
        (["run", "digits", "--data", "somewhere"], "takes no --data"),
        (["run", "digits", "--augment"], "no augmentation"),
        (["run", "digits", "--threads", "-1"], "--threads"),
        (["run", "digits", "--threads", "100000"], "four times the cores: got 100000"),
        (["run", "digits", "--seed", "0", "0"], "--seed: each value is needed once: got 0 0"),
        (["run", "digits", "--sparsity", "0.9999999"], "leaves none of 18,576 weights"),
        (["run", "digits", "--seed", "one"], "one"),
        (["run", "digits", "--seed", "0", "1.5"], "--seed takes whole numbers: got 1.5"),
        (["run", "digits", "--set", "step=3"], "did you mean 'steps'"),
        (["run", "digits", "--item", "seven"], "digits has one network for all its data: leave out --item"),
        (["run", "digits", "--method", "rtl", "imp_context"], "OneVsRest asks for the subset"),
        (["run"], "run needs an experiment"),
        (["runn", "digits"], "runn"),
        (["compare"], "at least one"),
        (["draw"], "at least one"),
        (["report"], "at least one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_argument_is_status_2_and_one_line(arguments, named, capsys, tmp_path):
    out = ["--out", tmp_path] if arguments[:2] == ["run", "digits"] else []
    assert named in bad(capsys, 2, *arguments, *out)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_run_is_status_1_and_one_line(capsys, tmp_path):
    (tmp_path / "runs").write_text("mine")
    found = bad(capsys, 1, "run", "digits", "--method", "imp", *TINY, "--out", tmp_path / "runs")
    assert "a file is in the way" in found
    assert (tmp_path / "runs").read_text() == "mine"


def test_bad_threads_are_refused_when_resuming_too(runs, capsys):
    assert "--threads" in bad(capsys, 2, "resume", runs / "seed0", "--threads", "0")


def test_what_cannot_be_read_is_status_1_and_one_line(runs, tmp_path, capsys):
    assert "is no run" in bad(capsys, 1, "resume", tmp_path)
    assert "no run and holds none" in bad(capsys, 1, "compare", tmp_path)
    assert "there is no file" in bad(capsys, 1, "inspect", tmp_path / "x.tickets")
    damaged = tmp_path / "damaged.tickets"
    damaged.write_bytes((runs / "seed0" / "tickets" / "rtl-0.5.tickets").read_bytes()[:-100])
    assert "damaged.tickets" in bad(capsys, 1, "inspect", damaged)
    (tmp_path / "config.yaml").write_text("experiment: digits\n")
    assert "altered" in bad(capsys, 1, "resume", tmp_path)


def test_a_missing_folder_of_data_is_status_1_and_one_line(tmp_path, capsys):
    assert "there is no folder" in bad(capsys, 1, "run", "cifar10", "--data", "/no/such", "--out", tmp_path)


def test_a_run_of_other_settings_is_refused(runs, capsys):
    arguments = ["run", "digits", "--method", "rtl", *TINY, "--set", "T=2", "--out", runs.parent]
    assert "other settings: T: 1 there, 2 here" in bad(capsys, 1, *arguments)


# -- rows for machines ------------------------------------------------------------------------------------


def test_rows_of_run_and_compare_are_json_with_the_agreed_keys(runs, tmp_path, capsys):
    ran = ["run", "digits", "--method", "rtl", "imp", *TINY, "--seed", 0, 1, "--out", runs.parent, "--json"]
    for arguments in (ran, ["compare", runs, "--json"]):
        status, out, _ = call(capsys, *arguments)
        rows = json.loads(out)
        assert status == 0
        assert {row["method"] for row in rows} == {"rtl", "imp"}
        for row in rows:
            assert row.keys() - {"reading"} == ROW
            assert row.get("reading", "paper") in ("paper", "like_for_like")
            assert row["seeds"] == 2


def test_compare_gives_the_mean_and_interval_of_the_seeds(runs, capsys):
    _, out, _ = call(capsys, "compare", runs, "--json")
    values = {}
    for seed in (0, 1):
        for line in (runs / f"seed{seed}" / "records.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["event"] == "metric" and "ticket" not in record:
                key = (record["method"], record.get("reading"), record["metric"])
                values.setdefault(key, []).append(record["value"])
    for _, reading, metric in [key for key in values if key[0] == "rtl" and metric_info(key[2]).headline]:
        both = zip(values["rtl", reading, metric], values["imp", reading, metric], strict=True)
        values["rtl", reading, f"{metric}_lead"] = [ours - single for ours, single in both]
    assert len([key for key in values if key[2].endswith("_lead")]) == 4  # one metric has both readings
    rows = [row for row in json.loads(out) if row["metric"] != "minutes"]
    assert len(rows) == len(values)
    for row in rows:
        pair = values[row["method"], row.get("reading"), row["metric"]]
        assert row["mean"] == pytest.approx(np.mean(pair))
        half = 0.0 if pair[0] == pair[1] else stats.t.interval(0.95, 1, 0, stats.sem(pair))[1]
        assert row["ci95"] == pytest.approx(half)


def test_inspect_and_experiments_are_json(runs, capsys):
    file = runs / "seed0" / "tickets" / "rtl-0.5.tickets"
    status, out, _ = call(capsys, "inspect", file, "--json")
    metadata = json.loads(out)
    assert status == 0
    assert metadata["bytes"] == file.stat().st_size
    assert set(metadata["tickets"].values()) == {metadata["weights_in_scope"] // 2}
    status, out, _ = call(capsys, "experiments", "--json")
    assert status == 0
    assert {e["name"]: sorted(e["presets"]) for e in json.loads(out)}["digits"] == ["quick"]


# -- words for people -------------------------------------------------------------------------------------


def test_tables_are_printed_and_a_finished_run_says_so(runs, capsys):
    command = ["run", "digits", "--method", "rtl", "imp", *TINY, "--seed", 0, 1, "--out", runs.parent]
    status, out, err = call(capsys, *command)
    assert status == 0
    assert "Like for like" in out
    assert "union" in out
    assert err.count("done before") == 4
    assert "seed1" in err


def test_resume_gives_the_same_rows_and_changes_nothing(runs, capsys):
    before = (runs / "seed0" / "records.jsonl").read_bytes()
    _, resumed, _ = call(capsys, "resume", runs / "seed0", "--json")
    _, compared, _ = call(capsys, "compare", runs / "seed0", "--json")
    assert resumed == compared
    assert (runs / "seed0" / "records.jsonl").read_bytes() == before


def test_inspect_shows_every_layer_and_ticket(runs, capsys):
    status, out, _ = call(capsys, "inspect", runs / "seed0" / "tickets" / "rtl-0.5.tickets")
    assert status == 0
    assert "weights in scope: " in out
    assert "seven" in out
    assert ".weight" in out


def test_experiments_lists_presets_and_methods(capsys):
    status, out, _ = call(capsys, "experiments")
    assert status == 0
    for word in ("digits", "cifar10", "--preset quick", "--method rtl", "twin", "(control)"):
        assert word in out


def test_compare_writes_a_page_and_its_twin_and_keeps_the_words(runs, tmp_path, capsys):
    page = tmp_path / "digits.md"
    begin, end = made_by("compare").begin, made_by("compare").end
    page.write_text(f"# Digits\nwords before\n{begin}\nyesterday\n{end}\nwords after\n")
    status, out, _ = call(capsys, "compare", runs, "--write", page, "--json")
    text = page.read_text()
    assert status == 0
    assert text.startswith("# Digits\nwords before\n")
    assert text.endswith("\nwords after\n")
    assert "| rtl | 50% | 2 |" in text
    assert "yesterday" not in text
    assert json.loads(page.with_suffix(".json").read_text()) == json.loads(out)


def test_compare_shows_the_methods_that_are_named_beside_what_the_page_has(runs, tmp_path, capsys):
    page = tmp_path / "digits.md"
    _, all_rows, _ = call(capsys, "compare", runs, "--write", page, "--json")
    kept = [row for row in json.loads(page.with_suffix(".json").read_text()) if row["method"] == "imp"]
    for row in kept:
        row["mean"] = 7.0  # as if they were of runs that lie elsewhere
    page.with_suffix(".json").write_text(json.dumps(kept))
    _, out, _ = call(capsys, "compare", runs, "--method", "rtl", "--write", page, "--json")
    assert json.loads(out) == [row for row in json.loads(all_rows) if row["method"] == "rtl"]
    assert any(row["metric"] == "auc_lead" for row in json.loads(out))  # of imp, which is not shown
    assert json.loads(page.with_suffix(".json").read_text()) == json.loads(out) + kept
    assert "did you mean 'imp'" in bad(capsys, 2, "compare", runs, "--method", "imp_")


def test_compare_says_that_nothing_is_finished_yet(runs, tmp_path, capsys):
    shutil.copytree(runs / "seed0", tmp_path / "seed0")
    (tmp_path / "seed0" / "records.jsonl").write_text("")
    (tmp_path / "seed0" / "timings.jsonl").unlink()
    page = tmp_path / "page.md"
    assert "no outcome is finished" in bad(capsys, 1, "compare", tmp_path / "seed0", "--write", page)
    assert not page.exists()


def test_compare_refuses_a_page_without_marks(runs, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("mine")
    assert "no place for tables" in bad(capsys, 1, "compare", runs, "--write", page)
    assert page.read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(command, capsys):
    status, out, _ = call(capsys, command, "--help")
    assert status == 0
    assert f"Example: tombola {command}" in out
    assert "--json" in out


def test_help_and_version_need_no_command(capsys):
    status, out, _ = call(capsys, "--help")
    assert status == 0
    assert all(command in out for command in COMMANDS)
    assert call(capsys, "--version")[1].strip() == cli.tombola.__version__


# -- a network per item, and pictures ---------------------------------------------------------------------

ITEMS = ("bridge", "castle")


def photographs(source, augment):
    """Two small data sets of two subsets each."""
    found = {}
    for seed, item in enumerate(ITEMS):
        g = torch.Generator().manual_seed(seed)
        y = torch.arange(80) % 2
        x = torch.randn(80, 4, generator=g) + 2 * torch.eye(2, 4)[y]
        found[item] = tb.Data.of(x, y, {"side": np.where(torch.arange(80) % 4 < 2, "left", "right")})
    return found


def small_network(generator):
    network = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
    for layer in (network[0], network[3]):
        nn.init.normal_(layer.weight, std=0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return network


def picture(finished, out):
    """A text per run instead of a picture."""
    files = []
    for run in finished:
        masks = run.tickets("imp", 0.5, small_network(torch.Generator())).masks
        files.append(out / f"{run.item}-{run.seed}.txt")
        files[-1].write_text(f"{int(masks.union().sum())} weights, {len(run.data.test)} test samples")
    return files


@pytest.fixture
def tiny(monkeypatch):
    """An experiment with a network per item, registered for one test."""
    config = tb.TrainConfig(lr=0.01, batch_size=8)
    settings = tb.Settings((0.5,), "one_shot", T=2, steps=60, statistics=1, search=config, train=config)
    found = Experiment(
        name="tiny",
        summary="made for tests",
        data="inside the test",
        load=photographs,
        backbone=small_network,
        partition=lambda data: tb.partition.by_column(data, "side"),
        objective=tb.objectives.Classification(),
        presets={"quick": Preset(settings, "seconds")},
        draw=picture,
    )
    monkeypatch.setitem(EXPERIMENTS, "tiny", found)
    return found


def content(run):
    """Every byte that must not depend on interruptions."""
    files = [run / "records.jsonl", *sorted(run.glob("tickets/*")), *sorted(run.glob("stages/*"))]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def test_every_item_has_a_run_per_seed_and_the_interval_is_over_items(tiny, tmp_path, capsys):
    command = ["run", "tiny", "--method", "imp", "--seed", 0, 1, "--out", tmp_path, "--json"]
    status, out, err = call(capsys, *command)
    assert status == 0
    places = [f"{item}/seed{seed}" for item in ITEMS for seed in (0, 1)]
    runs = [tmp_path / "tiny-quick" / place for place in places]
    assert [run.is_dir() for run in runs] == [True] * 4
    assert "castle, seed 1: imp at 50%" in err
    (accuracy,) = [row for row in json.loads(out) if row["metric"] == "accuracy"]
    assert accuracy.keys() == ROW | {"reading", "items"}
    assert (accuracy["items"], accuracy["seeds"]) == (2, 2)
    first, second = ([rows_of([run]) for run in runs[i : i + 2]] for i in (0, 2))
    means = [
        np.mean([next(r["mean"] for r in rows if r["metric"] == "accuracy") for rows in item])
        for item in (first, second)
    ]
    assert accuracy["mean"] == pytest.approx(np.mean(means))
    _, out, _ = call(capsys, "compare", tmp_path)
    assert "items" in out


def test_one_item_is_run_alone_and_resumed_to_the_same_bytes(tiny, tmp_path, capsys, monkeypatch):
    command = ["run", "tiny", "--method", "imp", "imp_context", "--item", "castle", "--out"]
    status, out, err = call(capsys, *command, tmp_path / "whole", "--json")
    whole = tmp_path / "whole" / "tiny-quick" / "castle" / "seed0"
    assert status == 0
    assert not any("items" in row for row in json.loads(out))
    assert {path.name for path in whole.parent.parent.iterdir()} == {"castle"}
    plain, count = os.fsync, 0

    def full(handle):
        nonlocal count
        count += 1
        if count > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert call(capsys, *command, tmp_path / "cut")[0] == 1
    monkeypatch.setattr(os, "fsync", plain)
    cut = tmp_path / "cut" / "tiny-quick" / "castle" / "seed0"
    assert len(content(cut)) < len(content(whole))
    status, resumed, err = call(capsys, "resume", cut, "--json")
    assert status == 0
    assert "castle, seed 0: imp_context at 50%" in err
    assert content(cut) == content(whole)
    assert json.loads(resumed)[0]["experiment"] == "tiny"


def test_an_unknown_item_is_refused_before_anything_is_made(tiny, tmp_path, capsys):
    line = bad(capsys, 2, "run", "tiny", "--item", "bridge", "castel", "--out", tmp_path)
    assert "there is no item 'castel'; did you mean 'castle'? Known: bridge, castle" in line
    assert not list(tmp_path.iterdir())


def test_all_methods_that_make_sense_are_run_by_default(tiny, tmp_path, capsys):
    command = ["run", "tiny", "--item", "bridge", "--set", "steps=3", "--out", tmp_path, "--json"]
    status, out, _ = call(capsys, *command)
    assert status == 0
    assert {row["method"] for row in json.loads(out)} == set(STANDARD)
    trained = {row["mean"] for row in json.loads(out) if row["metric"] == "samples_train"}
    assert trained == {3 * 8 * 2}


def test_a_method_that_is_refused_does_not_spoil_a_run(runs, tmp_path, capsys):
    shutil.copytree(runs, tmp_path / "digits-quick")
    command = ["run", "digits", *TINY, "--out", tmp_path, "--method", "rtl"]
    assert "asks for the subset" in bad(capsys, 2, *command, "imp_context")
    assert call(capsys, *command)[0] == 0


def test_draw_gives_what_the_experiment_draws(tiny, tmp_path, capsys):
    command = ["run", "tiny", "--method", "imp", "--seed", 0, 1, "--item", "castle", "--out", tmp_path]
    assert call(capsys, *command)[0] == 0
    pictures = tmp_path / "new" / "pictures"
    names = [str(pictures / f"castle-{seed}.txt") for seed in (0, 1)]
    status, out, _ = call(capsys, "draw", tmp_path, "--out", pictures)
    assert (status, out.splitlines()) == (0, names)
    assert (pictures / "castle-1.txt").read_text() == "24 weights, 16 test samples"
    assert json.loads(call(capsys, "draw", tmp_path, "--out", pictures, "--json")[1]) == names


def test_draw_refuses_what_it_cannot_draw_in_one_line(tiny, runs, tmp_path, capsys, monkeypatch):
    pictures = ["--out", tmp_path / "pictures"]
    command = ["run", "tiny", "--method", "imp", "--item", "castle", "--out", tmp_path]
    assert call(capsys, *command)[0] == 0
    assert "digits has no pictures" in bad(capsys, 2, "draw", runs, *pictures)
    several = bad(capsys, 1, "draw", runs, tmp_path, *pictures)
    assert "these are runs of digits, tiny: draw one experiment at a time" in several
    assert "no run and holds none" in bad(capsys, 1, "draw", tmp_path / "nowhere", *pictures)
    only = dataclasses.replace(tiny, load=lambda *_: {"bridge": photographs(None, False)["bridge"]})
    monkeypatch.setitem(EXPERIMENTS, "tiny", only)
    gone = bad(capsys, 1, "draw", tmp_path, *pictures)
    assert "castle/seed0 is of 'castle', which is no longer in its data" in gone
    monkeypatch.setitem(EXPERIMENTS, "tiny", tiny)
    (tmp_path / "tiny-quick" / "castle" / "seed0" / "tickets" / "imp-0.5.tickets").unlink()
    assert "imp-0.5.tickets" in bad(capsys, 1, "draw", tmp_path, *pictures)


# -- interruptions ----------------------------------------------------------------------------------------


def test_an_interrupt_is_status_130(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tombola.cli.compare.runs_of", interrupted)
    status, _, err = call(capsys, "compare", "somewhere")
    assert status == 130
    assert err.splitlines() == ["interrupted"]


def test_a_run_that_is_interrupted_says_how_it_goes_on(monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    run = ["run", "digits", "--method", "dense", "--set", "steps=1", "--out"]
    with monkeypatch.context() as patched:
        patched.setattr("tombola.training.trainer.Problem.gradient", interrupted)
        status, _, err = call(capsys, *run, tmp_path)
    assert status == 130
    assert f"tombola resume {tmp_path / 'digits-quick' / 'seed0'}" in err.replace("\n", "")
    monkeypatch.setattr("tombola.lab.launch.Order.run", interrupted)  # before there is anything to go on with
    assert "resume" not in call(capsys, *run, tmp_path / "none")[2]


def test_a_full_disk_is_status_1_and_one_line_and_the_run_goes_on(runs, tmp_path, monkeypatch, capsys):
    plain, count = os.fsync, 0

    def full(handle):
        nonlocal count
        count += 1
        if count > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    command = ["run", "digits", "--method", "rtl", "imp", *TINY, "--out", tmp_path]
    monkeypatch.setattr(os, "fsync", full)
    status, out, err = call(capsys, *command)
    monkeypatch.undo()
    assert (status, out) == (1, "")
    assert [line for line in err.splitlines() if line.startswith("tombola: ")] == err.splitlines()[-1:]
    assert "No space left on device" in err
    assert call(capsys, "resume", tmp_path / "digits-quick" / "seed0")[0] == 0
    for name in ("records.jsonl", "tickets/rtl-0.5.tickets", "stages/judge-imp-0.5.safetensors"):
        resumed, whole = (folder / "seed0" / name for folder in (tmp_path / "digits-quick", runs))
        assert resumed.read_bytes() == whole.read_bytes()


def program(*arguments):
    command = [sys.executable, "-m", "tombola.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option):
    code = (
        f"import sys; from tombola.cli.main import app; app()([{option!r}], result_action='return_value')\n"
    )
    code += "print(sorted({'torch', 'sklearn', 'matplotlib', 'scipy'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("absent", LAB)
def test_without_the_extra_the_command_line_asks_for_it_in_one_line(absent):
    code = f"import sys; sys.modules[{absent!r}] = None\n"
    code += "from tombola.cli.main import main; main(['experiments'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    asked = (
        "tombola: the command line needs the extra lab: pip install -e '.[lab]' in the folder of Tombola\n"
    )
    assert (found.returncode, found.stdout, found.stderr) == (1, "", asked)


def test_without_the_extra_the_laboratory_and_pictures_ask_for_it_by_name():
    code = """
import sys
sys.modules["matplotlib"] = None
import torch, tombola as tb
masks = tb.MaskSet(tb.Layout(("w",), ((2, 2),)), {"a": torch.ones(4, dtype=torch.bool)})
for ask in (lambda: masks.plot(), lambda: __import__("tombola.lab.experiments")):
    try:
        ask()
    except tb.errors.MissingExtra as error:
        print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [
        "pictures of tickets: matplotlib is needed; pip install -e '.[lab]' in the folder of Tombola",
        "tombola.lab needs the extra lab: pip install -e '.[lab]' in the folder of Tombola",
    ]


def loaded(code):
    """The modules that a program of its own has imported at its end."""
    command = [sys.executable, "-c", f"import sys\n{code}\nprint('loaded', *sys.modules)"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(found.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("command", ["run --help", "inspect --help", "experiments"])
def test_what_computes_nothing_imports_no_more_than_torch(command):
    code = f"from tombola.cli.main import app; app()({command.split()!r}, result_action='return_value')"
    heavy = {"sklearn", "pandas", "matplotlib", "scipy.stats", "scipy.signal", "scipy.ndimage"}
    assert not heavy & loaded(code)


def test_help_is_in_the_order_of_work_and_says_nothing_of_empty_defaults(capsys):
    _, out, _ = call(capsys, "--help")
    places = [out.index(f"\u2502 {name} ") for names in cli.COMMANDS.values() for name in names]
    assert places == sorted(places)
    assert set(COMMANDS) <= {name for names in cli.COMMANDS.values() for name in names}
    _, out, _ = call(capsys, "run", "--help")
    assert "[default: 0]" in out
    assert "[default: runs]" in out
    assert "[default: ]" not in out
    assert "()" not in out
    for name in (name for names in cli.COMMANDS.values() for name in names):
        shown = " ".join(call(capsys, name, "--help")[1].replace("│", " ").split())
        assert "default: None" not in shown
        assert "default: ]" not in shown


def test_a_folder_in_place_of_a_ticket_file_is_named_with_the_files_in_it(runs, tmp_path, capsys):
    run = next(runs.rglob("config.yaml")).parent
    for folder in (run, run.parent, run / "tickets"):
        code, _, err = call(capsys, "inspect", folder)
        assert code == 1
        assert "is a folder, not a file: give a ticket file, such as " in err
        assert call(capsys, "inspect", err.split("such as ")[1].split(" (")[0].strip())[0] == 0
    assert "no ticket file lies in it" in call(capsys, "inspect", tmp_path)[2]


def test_a_run_ends_with_the_verdict_in_words_of_its_page(tmp_path, capsys):
    command = ["run", "digits", "--method", "rtl", "imp", *TINY, "--out", tmp_path]
    _, out, _ = call(capsys, *command)
    first, *_, last = out.splitlines()[-3:]
    assert first.startswith("In the paper's reading (balanced accuracy), rtl ")
    assert last == "One seed: a direction, not a claim."
    assert json.loads(call(capsys, *command, "--json")[1])  # machines get rows alone


def test_the_package_is_imported_in_no_time():
    found = loaded("import tombola")
    assert not {"torch", "numpy", "sklearn", "scipy", "matplotlib"} & found
    light = {"tombola", "tombola._utils", "tombola._utils.version"}
    assert {name for name in found if name.startswith("tombola")} == light


TOY = """
import torch, tombola as tb
x, y = torch.rand(200, 8), torch.arange(200) % 2
data = tb.Data.of(x, y)
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
parts = tb.partition.by_label(data, names=["even", "odd"])
tickets = tb.rtl(net, tb.objectives.OneVsRest(), data, parts, sparsity=0.5, T=2, steps=2)
assert set(tickets.masks.counts) == {"even", "odd"}
tickets(x, ticket="odd")
"""


ABSENT = f"""
from importlib.machinery import PathFinder
def spec(name, *where, find=PathFinder.find_spec):
    return None if name.partition(".")[0] in {LAB!r} else find(name, *where)
PathFinder.find_spec = staticmethod(spec)  # None, as where it is not installed: torch looks so for pandas
"""


def test_the_package_finds_tickets_without_the_laboratory_and_loads_nothing_that_is_not_asked_for():
    found = loaded(ABSENT + TOY)
    rooms = ("lab", "cli", "serve", "training.pretrained", "_utils.hub", "data.text")
    tickets = ("routing", "calibration", "export", "prediction", "generation", "sharing")
    apart = [f"tombola.{name}" for name in (*rooms, *(f"tickets.{name}" for name in tickets))]
    apart += ["transformers", "rich.progress"]
    assert not [name for name in found if name.startswith(tuple(apart))]


def test_an_interrupt_while_torch_is_imported_is_one_line_too(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    command = [sys.executable, "-m", "tombola.cli", "experiments"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert (found.returncode, found.stdout, len(found.stderr.splitlines())) == (130, "", 1)


def test_the_package_offers_the_function_scope_though_a_module_has_its_name():
    names = {}
    exec("from tombola import *", names)
    assert names["scope"] is tombola.scope
    assert callable(names["load"])
    assert not hasattr(tombola, "nothing")


def test_no_option_offers_to_be_empty(capsys):
    for command in COMMANDS:
        assert "--empty" not in call(capsys, command, "--help")[1]


def test_the_program_itself_refuses_in_one_line():
    found = program("run", "digit")
    assert (found.returncode, found.stdout) == (2, "")
    assert len(found.stderr.splitlines()) == 1


def test_the_program_itself_prints_json_and_nothing_else():
    found = program("experiments", "--json")
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout)


def test_runs_of_one_name_do_not_share_a_folder(tmp_path):
    runs = [Path("a/seed0"), Path("b/seed0")]
    assert apart(runs, "--save", None) == runs
    assert apart(runs[:1], "--save", tmp_path) == runs[:1]
    with pytest.raises(UsageError, match="called seed0 and would overwrite"):
        apart(runs, "--save", tmp_path)


def test_square_brackets_in_names_are_no_markup(capsys):
    terminal.out_console.print("runs[/old]/seed0 and runs[bold]/seed0")
    assert "runs[/old]/seed0 and runs[bold]/seed0" in capsys.readouterr().out


def test_machines_read_no_nan():
    assert json.loads(terminal.to_json({"a": [float("nan"), 1.5, float("inf")]})) == {"a": [None, 1.5, None]}
