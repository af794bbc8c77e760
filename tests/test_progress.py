"""tombola watch: a finished, a running, a crashed and an absent run."""

import fcntl
import json
import threading

import pytest
import yaml

from tombola.cli.main import main
from tombola.lab.report.stage_status import run_status
from tombola.settings import Settings


def write_run(path, done=(0.25,), sparsity=(0.25, 0.5), experiment="digits"):
    path.mkdir(parents=True)
    settings = {**Settings().plain(), "sparsity": list(sparsity)}
    config = {"experiment": experiment, "seed": 0, "settings": settings, "methods": ["rtl"]}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    times = [("search-own-0.25", 290), ("train-rtl-0.25", 300), ("judge-rtl-0.25", 10)]
    lines = [json.dumps({"stage": stage, "seconds": s, "from_start": True}) for stage, s in times]
    (path / "timings.jsonl").write_text("".join(f"{line}\n" for line in lines))
    metric = {"event": "metric", "stage": "j", "method": "rtl", "metric": "auc", "value": 1}
    rows = [{**metric, "sparsity": s} for s in done]
    stage = {"stage": "search-own-0.5", "round": 1}
    rows += [{"event": "prune", "ticket": t, "kept": 9, "loss": 0.5, **stage} for t in "ab"]
    rows += [{"event": "watch", "density": 0.6, "kappa": 0.875, **stage}]
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "pru')
    return path


def call(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert (stopped.value.code or 0) == code
    return capsys.readouterr()


def test_a_run_in_progress_says_where_it_is_and_how_long_it_takes(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = run_status(run)
        assert (found.state, found.done, found.wanted, found.seconds_left) == ("running", 1, 2, 600)
        assert ", ".join(found.words.values()) == (
            "running, 1 of 2 outcomes, search own 50%, round 2, density 0.600, loss 0.5000, kappa 0.875, "
            "about 10 min left"
        )
        assert call(capsys, "watch", run, "--once").out == ", ".join(found.words.values()) + "\n"
        timer = threading.Timer(0.3, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        timer.start()
        followed = call(capsys, "watch", run, "--every", "0.05").out.splitlines()  # ends with its process
        assert followed[0].startswith("running")
        assert followed[1].startswith("stopped, 1 of 2 outcomes")
    assert json.loads(call(capsys, "watch", run, "--json").out)["kappa"] == 0.875


def test_a_crashed_run_says_how_to_go_on_and_a_finished_one_ends(tmp_path, capsys):
    crashed = write_run(tmp_path / "crashed")
    (crashed / ".lock").touch()
    assert f"`tombola resume {crashed}` goes on" in call(capsys, "watch", crashed).out
    own = write_run(tmp_path / "own", experiment=None)  # `tombola resume` cannot know its network
    assert "the program of your own that made it goes on" in call(capsys, "watch", own).out
    finished = write_run(tmp_path / "finished", done=(0.25, 0.5))
    assert call(capsys, "watch", finished).out.startswith("finished, 2 of 2 outcomes")


def test_a_run_that_just_began_and_one_that_is_absent(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    (run / "records.jsonl").unlink()
    assert list(run_status(run).words.values()) == ["stopped", "0 of 2 outcomes"]
    assert "is no run" in call(capsys, "watch", tmp_path / "absent", code=1).err
    (tmp_path / "empty").mkdir()
    assert "is no run and holds none" in call(capsys, "watch", tmp_path / "empty", code=1).err
    call(capsys, "watch", run, "--every", "0", code=2)


def test_a_folder_of_runs_is_watched_run_by_run(tmp_path, capsys):
    write_run(tmp_path / "seed0", done=(0.25, 0.5))
    second = write_run(tmp_path / "seed1")
    lines = call(capsys, "watch", tmp_path).out.splitlines()
    assert lines[0] == "seed0: finished, 2 of 2 outcomes"
    assert lines[1].startswith("seed1: stopped, 1 of 2 outcomes, search own 50%")
    assert lines[2:] == [f"seed1: no process works on it: `tombola resume {second}` goes on"]
    found = json.loads(call(capsys, "watch", tmp_path, "--json").out)
    assert [(each["run"], each["state"]) for each in found] == [
        (str(tmp_path / "seed0"), "finished"),
        (str(second), "stopped"),
    ]


def test_a_folder_of_runs_is_watched_until_the_last_ends(tmp_path, capsys):
    first, second = (write_run(tmp_path / name) for name in ("a", "b"))
    (first / ".lock").touch()
    with (second / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(0.3, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        timer.start()
        lines = call(capsys, "watch", tmp_path, "--every", "0.05").out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "a: stopped",
        f"a: no process works on it: `tombola resume {first}` goes on",
        "b: running",
        "b: stopped",
        f"b: no process works on it: `tombola resume {second}` goes on",
    ]


def test_a_command_that_takes_one_run_names_those_in_a_folder(tmp_path, capsys):
    runs = [write_run(tmp_path / f"seed{seed}") for seed in range(2)]
    said = call(capsys, "resume", tmp_path, code=1).err
    assert f"it holds runs, name one of them: {runs[0]}, {runs[1]}" in said
    for seed in range(2, 9):
        write_run(tmp_path / f"seed{seed}")
    assert call(capsys, "resume", tmp_path, code=1).err.endswith("and 3 more\n")
