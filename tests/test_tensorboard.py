"""Curves for TensorBoard: what is written is what the records hold, once, and while a run goes on."""

import builtins
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_progress import call, write_run

from tombola._utils.errors import MissingExtra
from tombola.lab.report.tensorboard import Events, Scalar, scalars
from tombola.runs.stages import Stage

HEAD = {"stage": "search-own-0.5", "round": 1}
PRUNE = {"event": "prune", **HEAD, "ticket": "a/b c", "kept": 9, "loss": 0.5}
WATCH = {"event": "watch", **HEAD, "density": 0.6, "kappa": None}
MATRIX = {"event": "similarity", **HEAD, "kind": "jaccard", "depth": "all", "matrix": [[1, 0.5], [0.7, 1]]}
TRAIN = {"event": "retrain", "stage": "train-imp_per_subset-0.5-a", "ticket": "a", "step": 50, "loss": 0.25}
METRIC = {"event": "metric", "stage": "judge-rtl-0.5", "method": "rtl", "sparsity": 0.5, "metric": "auc"}
METRIC |= {"reading": "like_for_like", "ticket": "a", "value": 0.75}
# As `read_records` gives them: with the fields of their stages.
PRUNE, WATCH, MATRIX, TRAIN, METRIC = (
    {**Stage.parse(row["stage"]).fields(), **row} for row in (PRUNE, WATCH, MATRIX, TRAIN, METRIC)
)


def test_records_become_curves():
    assert list(scalars([PRUNE, WATCH, MATRIX, TRAIN, METRIC])) == [
        Scalar("search own", "loss/a/b c", 2, 0.5),
        Scalar("search own", "kept/a/b c", 2, 9.0),
        Scalar("search own", "density", 2, 0.6),
        Scalar("search own", "jaccard", 2, 0.6),
        Scalar("imp_per_subset", "loss_at_0.5/a", 50, 0.25),
        Scalar("rtl", "like_for_like/auc/a", 500, 0.75),
    ]


def test_what_is_no_curve_is_left_out():
    other = [{**PRUNE, "event": "alarm"}, {**PRUNE, "event": "moved"}, {"event": "prune", "stage": "odd"}]
    assert not list(scalars([*other, {**METRIC, "value": math.nan}]))
    only = [{**MATRIX, "depth": "early"}, {**MATRIX, "kind": "kappa"}, {**MATRIX, "matrix": [[1.0]]}]
    assert not list(scalars(only))


@given(st.lists(st.sampled_from([PRUNE, WATCH, MATRIX, TRAIN, METRIC]), max_size=12), st.integers(0, 12))
def test_curves_of_a_run_that_goes_on_are_continued(records, at):
    whole, begun = list(scalars(records)), list(scalars(records[:at]))
    assert whole[: len(begun)] == begun


def read(folder):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra tensorboard is absent"
    )
    found = reader.EventAccumulator(str(folder))
    found.Reload()
    names = found.Tags()["scalars"]
    return {name: [(e.step, pytest.approx(e.value)) for e in found.Scalars(name)] for name in names}


def test_event_files_hold_the_records_and_follow_them(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is absent")
    run, out = write_run(tmp_path / "seed0"), tmp_path / "curves"
    with Events(out, [run]) as events:
        assert events.look() == 7  # a metric, loss and count of two tickets, two values of the search
        assert events.look() == 0
        lines = (run / "records.jsonl").read_text().rpartition("\n")[0]  # without the torn line
        (run / "records.jsonl").write_text(f"{lines}\n{json.dumps(TRAIN)}\n")
        assert events.look() == 1
    expected = {"loss/a": [(2, 0.5)], "kept/a": [(2, 9)], "loss/b": [(2, 0.5)], "kept/b": [(2, 9)]}
    assert read(out / "seed0" / "search own") == {**expected, "density": [(2, 0.6)], "kappa": [(2, 0.875)]}
    assert read(out / "seed0" / "imp_per_subset") == {"loss_at_0.5/a": [(50, 0.25)]}
    assert read(out / "seed0" / "rtl") == {"outcome/auc": [(250, 1)]}


def test_a_second_conversion_takes_the_place_of_the_first(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is absent")
    for name in ("a/seed0", "b/seed0"):
        write_run(tmp_path / "runs" / name, done=(0.25, 0.5))
    for _ in range(2):
        call(capsys, "watch", tmp_path / "runs", "--tensorboard", tmp_path / "curves")
        time.sleep(1.1)  # event files are named after the second in which they begin
    for name in ("a", "b"):
        assert read(tmp_path / "curves" / name / "seed0" / "rtl") == {"outcome/auc": [(250, 1), (500, 1)]}


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match=r"\.\[tensorboard\]"):
        Events(tmp_path, [write_run(tmp_path / "run")])
