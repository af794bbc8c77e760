"""A run survives ``kill -9`` at any moment: resumed, it has the bytes of a run that never stopped."""

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils import io
from tombola._utils.errors import RunError, TicketFileError
from tombola.lab.report.rows import rows
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method, sparsities_of
from tombola.runs.directory import Run
from tombola.runs.log import read_config, read_records, read_timings

FORKED = multiprocessing.get_context("fork")  # a child that is killed for real, started in milliseconds


def network(dropout):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU()]
        return nn.Sequential(*hidden, *[nn.Dropout(dropout)] * bool(dropout), nn.Linear(16, 3))


def go(path, *methods, save_seconds=0.0, T=2, progress=None, dropout=0.0, **changes):
    """Carry out methods in a run directory, as `tombola run` does."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(3)
    y = torch.arange(120) % 3
    x = torch.randn(120, 6, generator=g) + 2 * torch.eye(3, 6)[y]
    data = tb.Data.of(x, y, validation=0.2, test=0.3)
    config = tb.TrainConfig(lr=0.01, batch_size=8, lr_schedule="cosine")
    changes = {"steps": 60, "rewind": 2, **changes}
    settings = tb.Settings((0.3, 0.6), "fraction:0.2", T=T, search=config, train=config, **changes)
    partition = tb.partition.by_label(data, ["a", "b/c", "d"])
    with Run(
        path, {"seed": 0, "settings": settings.plain(), "methods": methods}, progress, save_seconds
    ) as run:
        pipeline = Pipeline(
            network(dropout), tb.objectives.Classification(), data, partition, settings, 0, run
        )
        for name in methods:
            for sparsity in sparsities_of(pipeline, name):
                run_method(pipeline, name, sparsity)


def go_until(path, methods, call, after):
    """As `go`, but the process kills itself before or after its nth ``os.fsync`` or ``os.replace``."""
    count = 0

    def deadly(function):
        def wrapped(*arguments, **options):
            nonlocal count
            count += 1
            if count == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for name in ("fsync", "replace"):
        setattr(os, name, deadly(getattr(os, name)))
    go(path, *methods)


def go_until_step(path, methods, stage, step, options=None):
    """As `go`, but the process kills itself in the middle of a stage."""

    def progress(name, done, total):
        if (name, done) == (stage, step):
            os.kill(os.getpid(), signal.SIGKILL)

    go(path, *methods, progress=progress, **(options or {}))


def start(target, *arguments):
    child = FORKED.Process(target=target, args=arguments)
    child.start()
    return child


def content(path):
    """Every byte that must not depend on interruptions."""
    files = [path / "records.jsonl", *sorted(path.glob("tickets/*")), *sorted(path.glob("stages/*"))]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that were never interrupted, each made once."""
    made = {}

    def run(*methods):
        if methods not in made:
            made[methods] = tmp_path_factory.mktemp("whole") / "run"
            go(made[methods], *methods)
        return made[methods]

    return run


KILLED = [("rtl",), ("imp_per_subset",), ("rtl", "twin"), ("imp", "imp_context")]


@pytest.mark.parametrize("methods", KILLED, ids="+".join)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(methods, tmp_path, whole):
    expected, moments, kills = content(whole(*methods)), random.Random(len(methods[-1])), 0
    path = tmp_path / "run"
    for _ in range(40):
        child = start(go, path, *methods)
        while child.is_alive() and not (path / "config.yaml").exists():
            time.sleep(0.005)
        child.join(moments.uniform(0.02, 0.2) if kills < 6 else None)
        child.kill()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        kills += 1
    assert child.exitcode == 0
    assert kills >= 2
    assert content(path) == expected


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_killed_around_every_kind_of_write_ends_with_the_same_bytes(after, tmp_path, whole):
    expected, moments, kills = content(whole("rtl")), random.Random(after), 0
    path, child = tmp_path / "run", None
    while child is None or child.exitcode != 0:
        # Later and later, so that every process gets past the files that each one writes first.
        child = start(go_until, path, ("rtl",), moments.randint(1, 8 + 4 * kills), after)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        kills += child.exitcode != 0
    assert kills >= 4
    assert content(path) == expected
    assert not [f for f in path.rglob(".*") if f.name != ".lock"]  # no temporary file is left


@pytest.mark.parametrize(
    ("methods", "stage", "step"),
    [
        (("rtl",), "search-own-0.6", 5),
        (("rtl",), "train-rtl-0.3", 55),  # states are saved every 50 steps
        (("imp_per_subset",), "train-imp_per_subset-0.6-b/c", 55),
        (("rtl", "twin"), "train-twin-0.6", 55),
        (("imp", "imp_context"), "search-told-single-0.6", 2),  # in the second round
        (("imp", "imp_context"), "train-imp_context-0.3", 155),
    ],
)
def test_a_stage_goes_on_from_its_saved_state_to_the_same_bytes(methods, stage, step, tmp_path, whole):
    path = tmp_path / "run"
    child = start(go_until_step, path, methods, stage, step)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert io.read(path / "stages" / "current.safetensors")[1]["stage"] == stage
    go(path, *methods)
    assert read_timings(path)[stage] is None  # it did go on, and did not begin again
    assert content(path) == content(whole(*methods))


def test_private_norms_a_rewind_point_and_dropout_survive_a_kill(tmp_path):
    # The way to the rewind point is longer than the 50 steps between saved states.
    options = {"normalization": "per_ticket", "rewind": 60, "dropout": 0.2}
    go(tmp_path / "whole", "rtl", **options)
    torch.rand(7)  # what this process has drawn before must not matter
    for stage, step in (("rewind-own", 55), ("train-rtl-0.3", 55), ("search-own-0.6", 4)):
        child = start(go_until_step, tmp_path / "run", ("rtl",), stage, step, options)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        current = io.read(tmp_path / "run" / "stages" / "current.safetensors")
        assert current[1]["stage"] == stage
    go(tmp_path / "run", "rtl", **options)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_a_finished_run_is_not_repeated(whole):
    path = whole("rtl")
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.parent != path}
    records, timings = (path / "records.jsonl").read_bytes(), (path / "timings.jsonl").read_bytes()
    go(path, "rtl")
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.parent != path} == before
    assert (path / "records.jsonl").read_bytes() == records
    assert (path / "timings.jsonl").read_bytes() == timings


def test_adding_a_method_computes_that_method_alone(tmp_path, whole):
    path = tmp_path / "run"
    go(path, "rtl")
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.parent != path}
    go(path, "imp")
    after = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.parent != path}
    assert before.items() <= after.items()
    added = {file.name.split("-0")[0] for file in after.keys() - before.keys()}
    assert added == {"rewind-single.safetensors", "search-single", "train-imp", "judge-imp", "imp"}
    assert read_config(path)["methods"] == ["rtl", "imp"]
    records = (path / "records.jsonl").read_bytes()
    assert records.startswith((whole("rtl") / "records.jsonl").read_bytes())


def test_another_method_may_go_first_after_an_interruption(tmp_path, whole):
    path = tmp_path / "run"

    def stop(stage, done, total):
        if stage == "train-rtl-0.3" and done == 55:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(path, "rtl", progress=stop)
    assert (path / "stages" / "current.safetensors").exists()
    go(path, "imp")
    go(path, "rtl")
    expected = content(whole("rtl"))
    found = content(path)
    assert {n: found[n] for n in expected if n != "records.jsonl"}.keys() == expected.keys() - {
        "records.jsonl"
    }
    lines = found["records.jsonl"].splitlines()
    assert len(lines) == len(set(lines))
    assert set(expected["records.jsonl"].splitlines()) <= set(lines)


def test_two_processes_cannot_write_one_run(tmp_path):
    go(tmp_path, "dense")
    with Run(tmp_path, read_config(tmp_path)):
        child = FORKED.Process(target=refused, args=(tmp_path, os.getpid()))
        child.start()
        child.join()
        assert child.exitcode == 0


def refused(path, pid):
    with pytest.raises(RunError, match=rf"another process \(pid {pid}\)"):
        Run(path, read_config(path))


def test_another_config_is_refused_and_the_setting_named(tmp_path):
    go(tmp_path, "dense")
    with pytest.raises(RunError, match="other settings: T: 2 there, 5 here"):
        go(tmp_path, "dense", T=5)
    go(tmp_path, "dense")  # the refused one holds no lock, though its traceback is alive


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not empty and no run"):
        go(tmp_path, "dense")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_torn_last_line_is_cut_off(tmp_path, whole):
    path = tmp_path / "run"
    go(path, "rtl")
    with (path / "records.jsonl").open("a") as file:
        file.write('{"event": "met')
    assert all("event" in row for row in read_records(path))
    go(path, "rtl")
    assert content(path) == content(whole("rtl"))


def test_a_torn_line_of_timings_is_passed_over(tmp_path):
    go(tmp_path, "dense")
    known = read_timings(tmp_path)
    with (tmp_path / "timings.jsonl").open("a") as file:
        file.write('{"stage": "tr')
    assert read_timings(tmp_path) == known != {}


def test_shortened_records_are_an_error(tmp_path):
    go(tmp_path, "dense")
    records = tmp_path / "records.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match="was altered"):
        go(tmp_path, "dense")


@pytest.mark.parametrize("line", [b'{"event": \n', b"\xff\xfe\n", b"\n"], ids=["cut", "binary", "empty"])
def test_a_damaged_record_is_an_error_that_names_the_line(line, tmp_path):
    go(tmp_path, "dense")
    records = tmp_path / "records.jsonl"
    first, shared = records.read_bytes().split(b"\n", 1)
    records.write_bytes(first + b"\n" + line + shared)
    with pytest.raises(RunError, match="line 2, is damaged"):
        list(read_records(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_stage_is_one_clear_error(damage, tmp_path):
    go(tmp_path, "dense")
    file = next(tmp_path.glob("stages/train-*"))
    old = file.read_bytes()
    new = {
        "truncated": old[: len(old) // 2],
        "flipped": old[:-5] + bytes([old[-5] ^ 1]) + old[-4:],
        "empty": b"",
        "foreign": b"PK" + old[2:],
    }
    file.write_bytes(new[damage])
    with pytest.raises((RunError, TicketFileError)) as caught:
        go(tmp_path, "dense")
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "delete it, and the run computes this stage again" in str(caught.value)


@pytest.mark.parametrize("stage", ["judge-*", "train-*", "search-*"])
def test_a_deleted_stage_is_computed_again_with_the_same_records(stage, tmp_path, whole):
    path = tmp_path / "run"
    go(path, "rtl")
    for file in path.glob(f"stages/{stage}"):
        file.unlink()
    go(path, "rtl")
    names = "records.jsonl", "tickets/rtl-0.3.tickets", "tickets/rtl-0.6.tickets"
    assert all((path / name).read_bytes() == (whole("rtl") / name).read_bytes() for name in names)


@pytest.mark.parametrize("call", [3, 20])
def test_a_full_disk_stops_a_run_that_then_goes_on_to_the_same_bytes(call, tmp_path, whole, monkeypatch):
    path, plain, count = tmp_path / "run", os.fsync, 0

    def full(handle):
        nonlocal count
        count += 1
        if count >= call:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device: make room.* tombola resume .*run"):
        go(path, "rtl")
    monkeypatch.undo()
    assert not [f for f in path.rglob(".*") if f.name != ".lock"]
    go(path, "rtl")
    assert content(path) == content(whole("rtl"))


def test_minutes_leave_out_what_was_interrupted(tmp_path):
    def stop(stage, done, total):
        if stage == "train-rtl-0.3" and done == 55:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "rtl", progress=stop)
    go(tmp_path, "rtl")
    minutes = [r for r in rows([tmp_path]) if r["metric"] == "minutes"]
    assert [row["sparsity"] for row in minutes] == [0.6]


def test_records_are_lines_of_json_with_a_stage_and_an_event(whole):
    found = [json.loads(line) for line in (whole("rtl") / "records.jsonl").read_text().splitlines()]
    assert {row["event"] for row in found} == {"rewind", "prune", "similarity", "watch", "retrain", "metric"}
    stages = dict.fromkeys(row["stage"] for row in found)
    assert all((whole("rtl") / "stages" / f"{name}.safetensors").exists() for name in stages)
    assert Path(whole("rtl") / "tickets" / "rtl-0.3.tickets").stat().st_size > 0
