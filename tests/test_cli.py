"""The command line: what it prints, what it refuses, and with which status."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from tombola import cli
from tombola.report.page import BEGIN, END

COMMANDS = ("run", "resume", "compare", "inspect", "experiments")
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
        (["run", "digits", "--seed", "one"], "one"),
        (["run", "digits", "--set", "step=3"], "did you mean 'steps'"),
        (["run"], "name"),
        (["runn", "digits"], "runn"),
        (["compare"], "at least one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_argument_is_status_2_and_one_line(arguments, named, capsys, tmp_path):
    out = ["--out", tmp_path] if arguments[:2] == ["run", "digits"] else []
    assert named in bad(capsys, 2, *arguments, *out)
    assert not list(tmp_path.iterdir())


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
    assert "another settings: T: 1 there, 2 here" in bad(capsys, 1, *arguments)


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
    facts = json.loads(out)
    assert status == 0
    assert facts["bytes"] == file.stat().st_size
    assert set(facts["tickets"].values()) == {facts["weights_in_scope"] // 2}
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
    page.write_text(f"# Digits\nwords before\n{BEGIN}\nyesterday\n{END}\nwords after\n")
    status, out, _ = call(capsys, "compare", runs, "--write", page, "--json")
    text = page.read_text()
    assert status == 0
    assert text.startswith("# Digits\nwords before\n")
    assert text.endswith("\nwords after\n")
    assert "| rtl | 50% | 2 |" in text
    assert "yesterday" not in text
    assert json.loads(page.with_suffix(".json").read_text()) == json.loads(out)


def test_compare_refuses_a_page_without_marks(runs, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("mine")
    assert "no place for tables" in bad(capsys, 2, "compare", runs, "--write", page)
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


# -- interruptions ----------------------------------------------------------------------------------------


def test_an_interrupt_is_status_130_and_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "rows_of", interrupted)
    monkeypatch.setattr(cli, "find_runs", interrupted)
    status, _, err = call(capsys, "compare", "somewhere")
    assert status == 130
    assert err.splitlines() == ["interrupted; `tombola resume RUN`, or the same command, goes on from here"]


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


def test_the_program_itself_refuses_in_one_line():
    found = program("run", "digit")
    assert (found.returncode, found.stdout) == (2, "")
    assert len(found.stderr.splitlines()) == 1


def test_the_program_itself_prints_json_and_nothing_else():
    found = program("experiments", "--json")
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout)
