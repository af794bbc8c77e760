"""Runs at once: the bytes of those in turn; what dies goes on, what fails is named."""

import json
import os
import signal
import sys
from dataclasses import replace

import pytest
import torch

from tombola._utils.errors import MissingExtra, UsageError, WorkerDied
from tombola.cli import main as cli
from tombola.cli.jobs import JobOptions
from tombola.lab.jobs import ATTEMPTS, Processes, Ray, Task, at_once
from tombola.lab.launch import Order
from tombola.lab.sweep import grid
from tombola.runs.log import read_environment

TINY = ["steps=2", "statistics=1", "rewind=1", "schedule=one_shot"]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([str(argument) for argument in arguments]))
    out, err = capsys.readouterr()
    torch.set_num_threads(1)
    return stop.value.code or 0, out, err


def bytes_of(folder):
    """All that a sweep consists of, but for times, the page that has some, and environments."""
    left_out = ("timings.jsonl", "environment.json", "sweep.json", "sweep.html")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name not in left_out}


SWEEP = ["sweep", "digits", "--method", "imp", "dense", "--no-controls", "--sparsity", "0.8", "--json"]
GRID = ["--set", "T=1,2", *TINY]


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory):
    out = tmp_path_factory.mktemp("turn")
    with pytest.raises(SystemExit):
        cli.main([*SWEEP, "--threads", "1", "--out", str(out), *GRID])
    torch.set_num_threads(1)
    return out / "digits-quick"


def task(folder, seed=0, **changes):
    settings = [f"{name}={value}" for name, value in ({"T": 1} | changes).items()]
    order = Order.of("digits", sparsity=(0.8,), changes=[*TINY, *settings], source=None, methods=["imp"])
    return Task.of(order, folder, seed)


def test_a_sweep_at_once_has_the_bytes_of_one_in_turn_and_shares_what_is_common(in_turn, capsys, tmp_path):
    first = tmp_path / "digits-quick" / "T=1" / "seed0"
    command = [*SWEEP, "--out", tmp_path]
    status, _, err = call(capsys, *command, "--jobs", 2, *GRID)
    assert (status, err.count("T=1: seed 0: imp at 80%"), err.count("T=2: seed 0: imp")) == (0, 1, 1)
    assert bytes_of(tmp_path / "digits-quick") == bytes_of(in_turn)
    assert read_environment(first)["threads"] == 1
    shared = (tmp_path / "digits-quick/shared").glob("*.safetensors")
    assert len(list(shared)) == 2  # the dense network and the rewind point
    before = {f: f.stat().st_mtime_ns for f in tmp_path.glob("*/*/seed0/stages/*")}
    assert call(capsys, *command, *GRID)[0] == 0  # in turn nothing is left to do
    assert {f: f.stat().st_mtime_ns for f in tmp_path.glob("*/*/seed0/stages/*")} == before


def test_a_run_whose_process_is_killed_is_begun_again_and_named(in_turn, tmp_path):
    place, ended = Processes(1), []
    wanted = replace(task(tmp_path, T=2), point="T=2")
    wanted = replace(wanted, order=replace(wanted.order, methods=["imp", "dense"]))

    def look(running):
        lock = tmp_path / "seed0" / ".lock"
        if not ended and lock.exists() and lock.read_text():
            os.kill(int(lock.read_text()), signal.SIGKILL)

    for each in at_once([wanted], place, look, 0.5):
        ended.append(each)
    assert [each.again for each in ended] == [True, False]
    assert "its process ended with signal 9" in str(ended[0].error)
    assert ended[0].task.label == "T=2: seed 0"
    assert (ended[1].error, len(ended[1].said)) == (None, 3)
    theirs = in_turn / "T=2" / "seed0"
    assert (tmp_path / "seed0/records.jsonl").read_bytes() == (theirs / "records.jsonl").read_bytes()


def test_a_process_that_dies_every_time_is_given_up(tmp_path):
    place = Processes(1)

    def look(running):
        for worker in place._workers:
            os.kill(worker.process.pid, signal.SIGKILL)

    ended = list(at_once([task(tmp_path)], place, look, 0.5))
    assert [each.again for each in ended] == [True] * (ATTEMPTS - 1) + [False]
    assert all(isinstance(each.error, WorkerDied) for each in ended)


def test_an_interruption_ends_all_processes(tmp_path):
    place, started = Processes(2), []

    def look(running):
        started.extend(worker.process for worker in place._workers)
        assert len(running) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(at_once([task(tmp_path, seed) for seed in (0, 1)], place, look))
    assert len(started) == 2
    assert all(process.exitcode == -signal.SIGKILL for process in started)


def test_what_fails_is_named_and_the_others_are_done(capsys, tmp_path):
    command = ["run", "digits", "--method", "imp", "--sparsity", "0.8", "--out", tmp_path, "--jobs", 2]
    command += ["--seed", 0, 1, "--set", *TINY, "T=1"]
    run = tmp_path / "digits-quick" / "seed1"
    run.mkdir(parents=True)
    (run / "strange").write_text("not ours")
    status, out, err = call(capsys, *command)
    assert status == 1
    assert f"seed 1: failed: {run} is not empty and no run" in err
    assert "Runs that failed" in out
    assert "1 of 2 runs failed" in err
    assert "the same command goes on with them" in err
    (run / "strange").unlink()
    status, out, err = call(capsys, *command, "--json")
    assert status == 0
    assert {row["seeds"] for row in json.loads(out)} == {2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "--jobs must be at least 1: got 0"),
        ({"on": "slurm"}, "--on is ray or ray://HOST:PORT: got slurm"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        JobOptions(**options).place(None, "")


def test_one_after_the_other_where_nothing_is_asked():
    assert JobOptions().place(None, "") is None


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"--on ray: ray is needed; pip install -e '.\[ray\]'"):
        Ray("", 1)


def test_tasks_of_ray_have_the_same_bytes_and_a_sweep_goes_on_with_or_without_it(in_turn, capsys, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    order = Order.of("digits", sparsity=(0.8,), changes=TINY, source=None, methods=["imp", "dense"])
    folder, ended = tmp_path / "digits-quick", []
    tasks = [Task.of(p.order, p.folder, 0, point=p.label) for p in grid(order, folder, ["T=1,2"])]
    (folder / "T=2" / "seed0").mkdir(parents=True)
    (folder / "T=2" / "seed0" / "strange").write_text("not ours")

    def look(running):
        lock = tasks[0].path / ".lock"
        if not any(each.again for each in ended) and lock.exists() and lock.read_text():
            os.kill(int(lock.read_text()), signal.SIGKILL)

    for each in at_once(tasks, Ray("", 2), look, 0.5):
        ended.append(each)
    lost, failed, done = sorted(ended, key=lambda each: (not each.again, not each.error))
    assert lost.task is tasks[0]
    assert "its task was lost (WorkerCrashedError)" in str(lost.error)
    assert "is not empty and no run" in str(failed.error)
    assert done.task is tasks[0]
    (folder / "T=2" / "seed0" / "strange").unlink()
    assert call(capsys, *SWEEP, "--out", tmp_path, "--jobs", 1, *GRID)[0] == 0
    assert bytes_of(folder) == bytes_of(in_turn)
