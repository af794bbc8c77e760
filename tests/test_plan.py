"""What is planned is what runs do: trainings and steps of every stage of every method, files and time."""

import json
import sys
from dataclasses import replace

import pytest
import torch

import tombola as tb
from tombola.analysis.plan import Pace, planned
from tombola.cli import main as cli
from tombola.data.dataset import SPLITS
from tombola.lab.experiments import experiment
from tombola.lab.jobs import Task
from tombola.lab.launch import Order
from tombola.lab.planning import forecast
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method, sparsities_of
from tombola.methods.table import METHODS
from tombola.runs.cache import StageCache
from tombola.runs.directory import Run
from tombola.runs.stages import Work
from tombola.settings import TrainConfig
from tombola.training.ticket import TicketTrainer
from tombola.training.trainer import Problem

CONFIG = TrainConfig(lr=1e-3, batch_size=8)
SETTINGS = tb.Settings(
    (0.5, 0.8), "fraction:0.4", T=2, steps=3, rewind=1, statistics=1, search=CONFIG, train=CONFIG
)


@pytest.fixture(scope="module")
def digits():
    of = experiment("corruptions")  # handwritten digits whose context can be told
    whole = of.load(None, False)
    some = {name: whole.split(name).take(torch.arange(0, len(whole.split(name)), 7)) for name in SPLITS}
    data = replace(whole, **some)
    return of.backbone(torch.Generator().manual_seed(0)), of.objective, data, of.partition(data)


@pytest.fixture
def done(monkeypatch):
    """A list of what is trained from now on: a step each, and a mark for each training of a ticket."""
    found, gradient, train = [], Problem.gradient, TicketTrainer.train

    def step(self, *args):
        found.append("step")
        return gradient(self, *args)

    def training(self, *args):
        found.append("training")
        return train(self, *args)

    monkeypatch.setattr(Problem, "gradient", step)
    monkeypatch.setattr(TicketTrainer, "train", training)
    return found


class Counted(StageCache):
    """Notes what each stage really took."""

    def __init__(self, done):
        super().__init__("no")
        self.done, self.took = done, {}

    def get_or_compute(self, stage, compute, key="", work=None):
        if stage.phase != "judge" and str(stage) not in self.results:
            before = len(self.done)
            super().get_or_compute(stage, compute, key)
            new = self.done[before:]
            self.took[stage] = new.count("training") or int("step" in new), new.count("step")
        return super().get_or_compute(stage, compute, key)


# A rule ends their trainings, or the size of RTL's union is known afterwards only.
AT_MOST = {"early_bird", "early_bird_channels", "union_size_imp", "union_size_same_mask"}


def test_every_stage_of_every_method_takes_what_was_planned(digits, done):
    cache = Counted(done)
    pipeline = Pipeline(*digits, SETTINGS, 0, cache)
    plan = planned(pipeline, list(METHODS))
    assert not done
    assert set(plan.at_most) == AT_MOST
    for name in METHODS:
        for sparsity in sparsities_of(pipeline, name):
            run_method(pipeline, name, sparsity)
    works = {stage: work for stage, work in plan.works.items() if stage.phase != "judge"}
    assert works.keys() == cache.took.keys()
    for stage, (trainings, steps) in cache.took.items():
        work, at_most = works[stage], stage.method in AT_MOST or stage.view == "single_union"
        assert (work.trainings >= trainings) if at_most else (work.trainings == trainings), stage
        assert (work.all_steps >= steps) if at_most else (work.all_steps == steps), stage
    exact = [work for stage, work in works.items() if cache.took[stage] == (work.trainings, work.all_steps)]
    assert plan.trainings >= sum(work.trainings for work in exact if work.steps)
    assert sum(plan.of(name).steps for name in METHODS) == plan.steps


def test_what_a_run_has_done_is_not_counted_and_makes_the_rest_exact(digits, tmp_path, done):
    config = {"seed": 0, "settings": SETTINGS.plain(), "methods": []}
    pipeline = Pipeline(*digits, SETTINGS, 0, StageCache())
    before = planned(pipeline, ["rtl", "union_size_imp"], tmp_path / "run")
    with Run(tmp_path / "run", config, parallel="no") as run:
        pipeline.cache = run
        for sparsity in SETTINGS.sparsity:
            run_method(pipeline, "rtl", sparsity)
        left = planned(pipeline, ["rtl", "union_size_imp"], tmp_path / "run")
        assert left.of("rtl").works == {}
        assert (before.at_most, left.at_most) == (("union_size_imp",), ())
        done.clear()
        for sparsity in SETTINGS.sparsity:
            run_method(pipeline, "union_size_imp", sparsity)
    assert left.steps == done.count("step")
    files = [file for kind in ("stages", "tickets") for file in (tmp_path / "run" / kind).iterdir()]
    written = sum(file.stat().st_size for file in files)
    assert 0.8 * before.bytes < written < 1.2 * before.bytes  # headers are not planned, nor what is left out


def test_runs_of_a_sweep_share_stages_in_the_plan_too(digits, tmp_path):
    orders = [
        Order.of(
            "digits", sparsity=(0.5,), changes=["rewind=2", f"T={T}"], source=None, methods=["imp", "dense"]
        )
        for T in (1, 2)
    ]
    data = orders[0].load()
    alone = forecast([Task.of(order, tmp_path / "a", 0) for order in orders], data)
    shared = [replace(order, shared=tmp_path / "shared") for order in orders]
    together = forecast([Task.of(order, tmp_path / "b", 0) for order in shared], data, jobs=2)
    dense_and_rewind = 10 * 25 + 10 * 2
    assert alone.plain()["steps"] - together.plain()["steps"] == dense_and_rewind
    assert alone.plain()["trainings"] - together.plain()["trainings"] == 2
    assert together.seconds < together.plain()["seconds_in_turn"]


def test_a_round_is_shared_out_over_workers_and_the_rest_is_not(digits):
    pace = Pace(Pipeline(*digits, SETTINGS, 0, StageCache()))
    pace._known = {("step", 8): 1.0, ("cut", 0): 0.0, ("pass", 0): 0.0}
    plan = planned(pace.pipeline, ["rtl"])
    K, rounds = 4, 4
    assert plan.steps == K * (rounds * 2 + 2 * 3 + 1)
    assert [plan.seconds(pace, workers) for workers in (1, 2, 3, 4, 9)] == [
        K * (2 * 3 + 1) + rounds * 2 * in_turn for in_turn in (4, 2, 2, 1, 1)
    ]
    assert Work(3, 5, scored=1).all_steps == 15


def test_the_command_says_it_in_words_and_for_machines(capsys, tmp_path):
    command = ["plan", "digits", "--method", "rtl", "imp", "--out", str(tmp_path), "--set", "T=2"]
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            sys.exit(cli.main([*command, *more]))
        assert not stop.value.code
    out = capsys.readouterr().out
    words, _, machine = out.partition("{")
    assert "1 run, one after the other" in words
    assert "Memory" in words
    found = json.loads("{" + machine)
    assert [row["method"] for row in found["methods"]] == ["rtl", "imp"]
    assert found["trainings"] == (4 * 10 + 3) + (4 + 3)
    assert found["seconds"] > 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        cli.main([*command, "steps=5,10"])
    assert "steps: several values are a sweep" in capsys.readouterr().err
