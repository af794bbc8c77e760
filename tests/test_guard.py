"""The alarm while a search runs: what it measures, when it fires, the way back, exact resume."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

import tombola as tb
from tombola._utils.checkpoint import Checkpoint
from tombola._utils.errors import NotReached, UsageError
from tombola.lab.analysis.collapse import stated_rate
from tombola.lab.analysis.cusum import cusum
from tombola.lab.analysis.pace import FIRST, rises, standardised, threshold
from tombola.lab.analysis.signals import FLOOR, charts, signal
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import kappa, specialisation
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import levels, run_method
from tombola.objectives import Classification
from tombola.runs.cache import StageCache
from tombola.runs.directory import Run
from tombola.runs.log import read_records
from tombola.settings import Settings
from tombola.training.callbacks.guard import Guard
from tombola.training.search import extract
from tombola.training.trainer import TrainConfig

NAMES = ["top", "middle", "bottom"]
SCHEDULE = [220, 190, 165, 140, 120, 100]


# -- the pace ----------------------------------------------------------------------------------------------


def test_a_step_is_standardised_by_those_before_it():
    steps = [1.0, 3.0, 2.0, 5.0, 4.0, 9.0, 3.0]
    found = standardised(steps)
    assert np.isnan(found[:FIRST]).all()
    assert found[FIRST] == pytest.approx((9 - 3) / 1.4826)  # median 3, absolute deviations 2 0 1 2 1
    assert found[FIRST + 1] == pytest.approx((3 - 3.5) / (1.4826 * 1.5))


def test_gaps_are_passed_over_and_equal_steps_have_no_scale():
    known = [1.0, 3.0, 2.0, 5.0, 4.0, 9.0]
    gaps = standardised([known[0], math.nan, *known[1:]])
    assert np.array_equal(gaps[[0, *range(2, 7)]], standardised(known), equal_nan=True)
    assert standardised([1.0] * 6)[-1] == 0
    assert standardised([1.0] * 5 + [2.0])[-1] == 10
    assert standardised([1.0] * 5 + [0.5])[-1] == -10


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, 12, elements=st.integers(-50, 50)), st.integers(1, 9), st.integers(-9, 9))
def test_the_pace_knows_no_unit_and_no_origin(steps, scale, shift):
    assert np.allclose(standardised(steps), standardised(scale * steps + shift), equal_nan=True)


def test_the_stated_rate_is_that_of_fresh_null_runs():
    for rounds, rate in ((12, 0.05), (25, 0.2)):
        null = np.random.default_rng(1).normal(3, 0.1, size=(3000, rounds - 1))
        fired = (cusum(standardised(null)).max(-1) > threshold(rounds, rate)).mean()
        assert abs(fired - rate) < 0.02


def test_a_search_that_is_too_short_to_have_a_pace_raises_no_alarm():
    assert rises("likeness", [0.0, 0.0, 9.0], 3, 0.05).fired is None
    with pytest.raises(UsageError, match="a search of 2 rounds"):
        rises("likeness", [0.0, 0.0, 9.0], 2, 0.05)
    with pytest.raises(UsageError, match="false-alarm rate"):
        threshold(20, 0.0)


@pytest.mark.parametrize("stop", ["now", "collapse:", "collapse:x", "collapse:0.9", "collapse:0", "stop"])
def test_an_unknown_rule_is_one_clear_error(stop):
    with pytest.raises(UsageError, match="'collapse:RATE'"):
        Settings(stop=stop)
    assert (stated_rate("collapse:0.1"), stated_rate("warn")) == (0.1, 0.05)


def test_signals_rise_where_tickets_become_alike_and_shares_add_up_to_the_rate():
    row = {"density": 0.5, "kappa": 0.5, "specialisation": 0.1, "drift": 0.2, "fewest": 30}
    assert signal([row], "likeness") == [pytest.approx(math.log(2))]
    assert signal([row], "specialisation") == [pytest.approx(math.log(10))]
    assert signal([row], "drift") == [pytest.approx(math.log(0.2))]
    assert all(map(math.isnan, signal([{}, {"kappa": None}], "likeness")))
    found = charts([row, {**row, "fewest": FLOOR - 1}], 20, 0.06)
    assert [w.limit for w in found[:3]] == [threshold(20, 0.02)] * 3
    assert found[3].fired == 1
    assert charts([], 20) == []


# -- in a search -------------------------------------------------------------------------------------------


def guarded(problem, replicate=None, rounds=6, **options):
    return Guard(rounds, problem, stops=replicate is not None, replicate=replicate, **options)


def search(problem, guard, checkpoint=None, schedule=SCHEDULE):
    dense = MaskSet.dense(problem.f.scope, NAMES)
    return extract(problem, problem.f.theta0(), dense, schedule, 2, guard=guard, checkpoint=checkpoint)


def test_a_guard_that_only_warns_changes_nothing(make_problem, convnet):
    seen, plain = Checkpoint(), Checkpoint()
    problem = make_problem(convnet)
    masks = search(problem, guarded(problem), seen)
    assert masks == search(make_problem(convnet), None, plain)
    assert [row for row in seen.rows if row["event"] != "watch"] == plain.rows
    watched = [row for row in seen.rows if row["event"] == "watch"]
    assert [row["round"] for row in watched] == list(range(6))
    assert watched[-1]["density"] == masks.density
    others = ~torch.eye(3, dtype=torch.bool)
    assert watched[-1]["kappa"] == pytest.approx(float(kappa(masks, masks)[others].mean()), abs=1e-6)
    assert watched[-1]["fewest"] == int(masks.counts_KL()[:, 1].min())  # the layer of 36 is too small to ask
    assert not {"specialisation", "drift"} & watched[-1].keys()


def test_twins_and_drift_leave_the_tickets_as_they_are(make_problem, make_convnet):
    net = make_convnet(dropout=0.2)
    problem, replicate, checkpoint = make_problem(net), make_problem(net, order="twin"), Checkpoint()
    guard = guarded(problem, replicate)
    assert search(problem, guard, checkpoint) == search(make_problem(net), None)
    assert (problem.samples_seen, replicate.samples_seen) == (6 * 3 * 2 * 8, 6 * 2 * 8)
    twins = search(make_problem(net, order="twin"), None).select(["top"])
    assert guard.twins == twins
    last = [row for row in checkpoint.rows if row["event"] == "watch"][-1]
    masks = MaskSet.unpack(problem.f.scope, NAMES, guard.back[5])
    assert last["specialisation"] == pytest.approx(specialisation(masks, twins), abs=1e-6)
    assert last["drift"] > 0


def firing(monkeypatch, at, good):
    """An alarm in one round that goes back to another."""
    from tombola.lab.analysis.cusum import ControlChart

    def found(history, rounds, rate):
        values = [0.0 if t <= good else 1.0 for t in range(len(history))]
        return [
            ControlChart("likeness", tuple(v * (2 if t >= at else 1) for t, v in enumerate(values)), 1.5, 0.0)
        ]

    monkeypatch.setattr("tombola.training.callbacks.guard.charts", found)


@pytest.mark.parametrize(("at", "good"), [(3, 2), (4, 1), (5, 4)])
def test_a_stopped_search_gives_back_the_last_good_round(make_problem, convnet, monkeypatch, at, good):
    firing(monkeypatch, at, good)
    problem, checkpoint = make_problem(convnet), Checkpoint()
    guard = guarded(problem, make_problem(convnet, order="twin"))
    found = search(problem, guard, checkpoint)
    assert found == search(make_problem(convnet), None, schedule=SCHEDULE[: good + 1])
    assert guard.last_good_sparsity == pytest.approx(1 - SCHEDULE[good] / 252, abs=1e-6)
    assert max(row["round"] for row in checkpoint.rows) == at
    (alarm,) = [row for row in checkpoint.rows if row["event"] == "alarm"]
    assert (alarm["round"], alarm["last_good"], alarm["fired"]) == (at, good, ["likeness"])
    assert (alarm["stops"], alarm["false_alarms"]) == (True, 0.05)


def test_an_alarm_in_the_first_round_leaves_nothing_to_go_back_to(make_problem, convnet, monkeypatch):
    firing(monkeypatch, 0, -1)
    problem = make_problem(convnet)
    guard = guarded(problem, make_problem(convnet, order="twin"))
    assert search(problem, guard) == MaskSet.dense(problem.f.scope, NAMES)
    assert guard.last_good_sparsity is None


@pytest.mark.parametrize("alive", [1, 4, 8, 10])
def test_a_guarded_search_goes_on_to_the_same_bytes(
    make_problem, make_convnet, monkeypatch, interrupted, alive
):
    net = make_convnet(dropout=0.2)
    for at, good in ((9, 9), (4, 2)):
        firing(monkeypatch, at, good)

        def go(checkpoint, net=net):
            problem = make_problem(net)
            guard = guarded(problem, make_problem(net, order="twin"))
            return search(problem, guard, checkpoint), guard, problem

        whole, guard, problem = go(Checkpoint())
        checkpoint = interrupted(alive)
        with pytest.raises(KeyboardInterrupt):
            go(checkpoint)
        checkpoint.alive = 1000
        masks, again, resumed = go(checkpoint)
        assert (masks, again.history, again.alarm) == (whole, guard.history, guard.alarm)
        assert (resumed.samples_seen, again.replicate.samples_seen) == (
            problem.samples_seen,
            guard.replicate.samples_seen,
        )
        (ours, metadata), (theirs, others) = again.state(), guard.state()
        assert metadata == others
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- in a run ----------------------------------------------------------------------------------------------


def pipeline(images, by_class, convnet, cache=None, stop="collapse", sparsity=(0.2, 0.4, 0.6)):
    config = TrainConfig(lr=0.01, batch_size=8)
    s = Settings(sparsity, "fraction:0.1", T=2, steps=4, stop=stop, search=config, train=config, statistics=2)
    return Pipeline(convnet, tb.objectives.OneVsRest(), images, by_class, s, 0, cache or StageCache())


def carry_out_all(p, *methods):
    return {name: [run_method(p, name, level) for level in levels(p, name)] for name in methods}


def test_levels_that_were_not_reached_are_named_and_the_last_good_one_is_judged(
    images, by_class, convnet, monkeypatch
):
    firing(monkeypatch, 8, 6)  # 10% a round: .2 after 3 rounds, .4 after 6, .6 after 10
    p = pipeline(images, by_class, convnet)
    methods = ("rtl", "imp", "random_mask", "theta0_magnitude", "imp_per_subset", "union_size_imp", "twin")
    found = carry_out_all(p, *methods)
    good = p.stopped("own")["sparsity"]
    assert 0.4 < good < 0.6
    assert [o.sparsity for o in found["rtl"]] == [0.2, 0.4, good]
    assert [o.sparsity for o in found["random_mask"]] == [0.2, 0.4, good]
    assert [o.sparsity for o in found["theta0_magnitude"]] == [0.2, 0.4, good]
    assert [o.sparsity for o in found["imp"]] == [0.2, 0.4, 0.6]
    assert [o.sparsity for o in found["union_size_imp"]] == [0.2, 0.4]
    assert [o.sparsity for o in found["twin"]] == [0.2, 0.4]
    masks = found["rtl"][-1].models[0].masks
    assert masks == p.masks("own", good)
    assert 1 - masks.density == pytest.approx(good, abs=1e-6)
    assert masks <= p.masks("own", 0.4)
    (row,) = [row for row in p.cache.rows if row["event"] == "stopped"]
    assert (row["not_reached"], row["at"], row["sparsity"]) == ([0.6], 0.6, good)
    with pytest.raises(NotReached, match=r"60\.0% of the weights removed was not reached"):
        p.masks("own", 0.6)
    free = pipeline(images, by_class, convnet, stop="")
    assert free.masks("own", 0.4) == p.masks("own", 0.4)
    searched = {o.sparsity: {m.name: m.value for m in o.metrics}["samples_search"] for o in found["rtl"]}
    assert searched[good] > searched[0.4] > searched[0.2]


def test_a_warning_measures_as_much_and_changes_nothing(images, by_class, convnet, monkeypatch):
    firing(monkeypatch, 3, 2)
    plain, conditioned = (pipeline(images, by_class, convnet, stop=stop) for stop in ("", "warn"))
    assert levels(conditioned, "rtl") == [0.2, 0.4, 0.6]
    assert plain.masks("own", 0.6) == conditioned.masks("own", 0.6)
    events = [row["event"] for row in conditioned.cache.rows]
    assert (events.count("alarm"), events.count("stopped"), events.count("watch")) == (1, 0, 10)
    assert all("specialisation" in row for row in conditioned.cache.rows if row["event"] == "watch")
    (alarm,) = [row for row in plain.cache.rows if row["event"] == "alarm"]
    assert alarm["stops"] is False


def test_the_short_way_gives_the_last_good_tickets_and_says_so(images, by_class, convnet, monkeypatch):
    firing(monkeypatch, 5, 3)
    config = TrainConfig(lr=0.01, batch_size=8)
    options = {"T": 2, "steps": 3, "schedule": "fraction:0.1", "stop": "collapse", "statistics": 2}
    options |= {"search": config, "train": config, "sparsity": 0.6}
    objective = tb.objectives.OneVsRest()
    with pytest.warns(UserWarning, match="was not reached: the alarm for collapse") as conditioned:
        tickets = tb.rtl(convnet, objective, images, by_class, **options)
    assert conditioned[0].filename == __file__
    assert tickets.masks.density == pytest.approx(0.9**4, abs=0.01)
    firing(monkeypatch, 0, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NotReached, match="before any round was good"):
            tb.rtl(convnet, objective, images, by_class, **options)


def test_a_stopped_run_resumes_to_the_same_bytes(images, by_class, convnet, monkeypatch, tmp_path):
    firing(monkeypatch, 6, 4)

    def go(path, stop_at=None):
        def progress(checkpoint, done, total):
            if (checkpoint, done) == stop_at:
                raise KeyboardInterrupt

        p = pipeline(images, by_class, convnet)
        config = {"seed": 0, "settings": p.settings.plain(), "methods": ["rtl"]}
        with Run(path, config, progress, save_seconds=0.0) as run:
            p.cache = run
            carry_out_all(p, "rtl")

    go(tmp_path / "whole")
    for stop_at in (("search-own-0.2", 4), ("search-own-0.6", 2), ("train-rtl-0.4", 2)):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run", stop_at)
    go(tmp_path / "run")
    for file in ("records.jsonl", *(f.relative_to(tmp_path / "whole") for f in tmp_path.glob("whole/*/*"))):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert sum(row["event"] == "alarm" for row in read_records(tmp_path / "run")) == 1


def test_one_ticket_has_no_likeness_and_no_twin(images, convnet, make_problem):
    p = pipeline(images, tb.partition.by_label(images, NAMES), convnet)
    guard = p.search_of("single").guard(p.problem("single", p.settings.search), 5)
    assert not guard.stops
    assert guard.replicate is None
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    problem = make_problem(net, Classification(), partition=tb.partition.by_label(images, NAMES).whole())
    checkpoint = Checkpoint()
    dense = MaskSet.dense(problem.f.scope, problem.partition.names)
    extract(problem, problem.f.theta0(), dense, [50, 8], 1, guard=Guard(2, problem), checkpoint=checkpoint)
    fired = [row["fired"] for row in checkpoint.rows if row["event"] == "alarm"]
    assert fired == [["smallest layer"]]
