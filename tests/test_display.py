"""What moves on a terminal and what stays in a file: one line that fits, the right values, the time left."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import tombola as tb
from tombola.cli.display import Display
from tombola.lab.report.findings import expected
from tombola.lab.report.moment import Moment, clock, fitted, named
from tombola.lab.report.pace import Todo, needed, seconds_left
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.runs.directory import Run
from tombola.runs.log import read_timings

NOW = Moment("search-own-0.5", 3, 0.6, 0.03124, 0.8751)


@given(
    st.text("abcß ", min_size=1, max_size=40),
    st.sampled_from(["search-own-0.25", "train-imp_per_subset-0.25-automobile", "rewind-told-single", ""]),
    st.integers(1, 200),
    st.sampled_from(["", "10 min left", "12 h 59 min in this stage"]),
)
def test_the_line_is_never_wider_than_asked_for(where, stage, width, left):
    assert len(fitted(where, Moment(stage, 12, 0.5, 1e-9, -0.1234), left, width)) <= width


def test_eighty_columns_hold_everything():
    line = fitted("seed 0", NOW, "10 min left", 79)
    assert line == "seed 0  search own 50%  round 3  density .600  loss .0312  kappa .875  10 min"
    long = fitted("a photograph of a cat, seed 0", Moment("search-own-0.5", 3, 0.6, 0.03124), "9 s left", 79)
    assert long.endswith("round 3  density .600  loss .0312  9 s")
    assert "search own 50%" in long
    assert fitted("seed 0", Moment(), "", 79) == "seed 0  loading"


def test_a_moment_is_of_one_stage():
    now = NOW.after("train-rtl-0.5", {"event": "retrain", "step": 50, "ticket": "a", "loss": 0.5})
    assert now == Moment("train-rtl-0.5", loss=0.5)
    assert now.after("", {"event": "x", "loss": 9}) is now


def test_stages_are_named_as_a_run_names_them(tmp_path, images, by_class, convnet):
    """What `needed` says against the stages that a run has timed."""
    methods = ("rtl", "imp_per_subset", "random_mask", "union_size_imp", "theta0_magnitude", "snip", "dense")
    config = tb.TrainConfig(lr=0.01, batch_size=8)
    settings = tb.Settings((0.3,), "one_shot", T=1, steps=1, statistics=1, search=config, train=config)
    config = {"seed": 0, "settings": settings.plain(), "methods": methods}
    wanted = expected(config)
    with Run(tmp_path / "run", config) as run:
        pipeline = Pipeline(convnet, tb.objectives.OneVsRest(), images, by_class, settings, 0, run)
        for name, sparsity in wanted:
            run_method(pipeline, name, sparsity)
    timed = {re.sub("(imp_per_subset-0.3)-.*", r"\1", stage) for stage in read_timings(run.path)}
    assert timed == {"{}-{}-{}".format(*stage) for outcome in wanted for stage in needed(*outcome)}


def test_what_is_left_is_what_like_stages_took():
    timings = {"search-own-0.25": 10.0, "train-rtl-0.25": 20.0, "judge-rtl-0.25": 1.0}
    assert seconds_left([Todo([], {})]) == 0
    assert seconds_left([Todo([("rtl", 0.5)], {})]) is None
    assert seconds_left([Todo([("rtl", 0.5)], timings)]) == 31  # other sparsity, same phases
    assert seconds_left([Todo([("imp_per_subset", 0.25)], timings)]) == 21  # the search is there
    assert seconds_left([Todo([("rtl", 0.5), ("imp_per_subset", 0.5)], timings)]) == 52  # one search for both
    assert seconds_left([Todo([("dense", 0.0)], timings)]) == 21
    halves = {**timings, "train-imp_per_subset-0.25-a": 6.0, "train-imp_per_subset-0.25-b": 6.0}
    assert seconds_left([Todo([("imp_per_subset", 0.25)], halves)]) == pytest.approx(16 - 12 + 1)
    torn = {**timings, "search-own-0.5": None}  # done, in two goes: nobody knows how long it takes
    assert seconds_left([Todo([("rtl", 0.5)], torn)]) == 21


class Clock:
    """Time by hand."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


@pytest.fixture
def shown(tmp_path):
    """A display of two runs, on a terminal or not, and what it wrote."""

    def make(terminal, width=80):
        file, clock = io.StringIO(), Clock()
        console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
        runs = [tmp_path / "seed0", tmp_path / "seed1"]
        runs[0].mkdir()
        return Display(console, runs, [("rtl", 0.5)], clock), clock, file, runs[0]

    return make


def work(display, clock, run):
    """A search of 3 rounds and a training, as a run tells of them."""
    display.turn_to("seed 0", run)
    for r in range(3):
        for k, ticket in enumerate("ab"):
            clock.at += 5
            record = {"event": "prune", "round": r, "ticket": ticket, "kept": 9, "loss": 0.03 * (r + 1)}
            display.on_record("search-own-0.5", record)
            if k:
                callback = {"event": "watch", "round": r, "density": 1 - 0.2 * r, "kappa": 0.9}
                display.on_record("search-own-0.5", callback)
            yield display.on_progress("search-own-0.5", 2 * r + k + 1, 6)
    row = {"stage": "search-own-0.5", "seconds": 30, "from_start": True}
    (run / "timings.jsonl").write_text(json.dumps(row) + "\n")
    for step in range(1, 101):
        clock.at += 0.4
        if step % 50 == 0:
            display.on_record(
                "train-rtl-0.5", {"event": "retrain", "step": step, "ticket": "b", "loss": 1 / step}
            )
        yield display.on_progress("train-rtl-0.5", step, 100)


def test_a_terminal_sees_one_line_with_everything(shown):
    display, clock, _, run = shown(terminal=True, width=100)
    lines = [str(display.line()) for _ in work(display, clock, run)]
    assert all(len(line) <= 99 for line in lines)
    assert lines[3].startswith("seed 0  search own 50%  round 2  density .800  loss .0600  kappa .900  ")
    assert lines[3].rstrip("━ ").endswith("10 s in this stage")  # nobody knows yet what training takes
    assert lines[55].rstrip("━ ").endswith("2 min left")  # half of 40 s, and 70 s of the other run
    narrow = shown_at(display, 40)
    assert len(narrow) <= 39


def shown_at(display, width):
    display.console.width = width
    return str(display.line())


def test_a_file_gets_one_line_per_stage(shown):
    display, clock, file, run = shown(terminal=False)
    with display:
        for _ in work(display, clock, run):
            pass
    search, train = file.getvalue().splitlines()
    assert search == "seed 0: search own 50%, round 3, density .600, loss .0900, kappa .900"
    assert train == "seed 0: train rtl 50%, loss .0100, 1 min left"


def test_names_of_runs_are_no_markup(shown):
    display, _, file, run = shown(terminal=False)
    display.turn_to("[bold]x[/bold], seed 0", run)
    display.say("rtl at 50%: [1]")
    assert file.getvalue() == "[bold]x[/bold], seed 0: rtl at 50%: [1]\n"


def test_words():
    assert [clock(s) for s in (0.2, 59.4, 90, 3600)] == ["0 s", "59 s", "2 min", "1 h 0 min"]
    assert named("search-told-single-5e-05") == "search told single 0.005%"
