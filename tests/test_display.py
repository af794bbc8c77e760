"""What moves on a terminal and what stays in a file: one line that fits, the right values, the time left."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import tombola as tb
from tombola.cli.display import Display
from tombola.lab.report.findings import expected
from tombola.lab.report.stage_status import seconds_left
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.runs.directory import Run
from tombola.runs.log import read_timings
from tombola.runs.stages import Stage
from tombola.runs.status import StageStatus, clock, stage_words


def test_a_status_is_of_one_stage():
    now = StageStatus("search-own-0.5", 3, 0.6, 0.03124, 0.8751)
    after = now.after("train-rtl-0.5", {"event": "retrain", "step": 50, "ticket": "a", "loss": 0.5})
    assert after == StageStatus("train-rtl-0.5", loss=0.5)
    assert now.after("", {"event": "x", "loss": 9}) is now


def test_every_outcome_of_a_run_ends_with_a_stage_that_judges_it(tmp_path, images, by_class, convnet):
    """What the time left counts against the stages that a run has timed."""
    methods = ("rtl", "imp_per_subset", "random_mask", "union_size_imp", "theta0_magnitude", "snip", "dense")
    config = tb.TrainConfig(lr=0.01, batch_size=8)
    settings = tb.Settings((0.3,), "one_shot", T=1, steps=1, statistics=1, search=config, train=config)
    config = {"seed": 0, "settings": settings.plain(), "methods": methods}
    wanted = expected(config)
    with Run(tmp_path / "run", config) as run:
        pipeline = Pipeline(convnet, tb.objectives.OneVsRest(), images, by_class, settings, 0, run)
        for name, sparsity in wanted:
            run_method(pipeline, name, sparsity)
    timed = [Stage.parse(name) for name in read_timings(run.path)]
    assert None not in timed
    assert [(stage.method, stage.sparsity) for stage in timed if stage.phase == "judge"] == wanted


def test_what_is_left_is_what_outcomes_took_so_far():
    first = {"search-own-0.25": 10.0, "train-rtl-0.25": 20.0, "judge-rtl-0.25": 1.0}
    assert seconds_left([({}, 2)]) is None
    assert seconds_left([(first, 0)]) == 0
    assert seconds_left([(first, 2)]) == 62
    begun = {**first, "search-own-0.5": 6.0}
    assert seconds_left([(begun, 1), ({}, 2)]) == pytest.approx(25 + 62)  # of all runs together
    assert seconds_left([({**begun, "train-rtl-0.5": 90.0}, 1)]) == 0  # longer than usual: any moment now
    torn = {**first, "search-own-0.5": None, "judge-rtl-0.5": 1.0}  # done in two goes: nobody knows its time
    assert seconds_left([(torn, 1)]) == 31
    assert seconds_left([({"search-own-0.5": None, "judge-rtl-0.5": 1.0}, 1)]) is None


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
        wanted = {run: [("rtl", 0.5)] for run in runs}
        return Display(console, wanted, clock), clock, file, runs[0]

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
    timed(run, {"search-own-0.5": 30})
    for step in range(1, 101):
        clock.at += 0.4
        if step % 50 == 0:
            display.on_record(
                "train-rtl-0.5", {"event": "retrain", "step": step, "ticket": "b", "loss": 1 / step}
            )
        yield display.on_progress("train-rtl-0.5", step, 100)

    timed(run, {"search-own-0.5": 30, "train-rtl-0.5": 40})
    clock.at += 1
    yield display.on_progress("judge-rtl-0.5", 1, 2)
    clock.at += 1
    yield display.on_progress("judge-rtl-0.5", 2, 2)


def timed(run, stages):
    rows = [{"stage": stage, "seconds": s, "from_start": True} for stage, s in stages.items()]
    (run / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines_of(display, width):
    """What the terminal would show now."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(display.bar.get_renderable())
    return console.file.getvalue().splitlines()


def test_a_terminal_sees_one_line_with_everything(shown):
    display, clock, _, run = shown(terminal=True)
    lines = [lines_of(display, 110) for _ in work(display, clock, run)]
    assert {len(each) for each in lines} == {1}
    searching, training, judging = (lines[k][0] for k in (3, 55, -2))
    assert searching.startswith("seed 0  search own 50%  round 2  density 0.800  kappa 0.900 ")
    assert "loss 0.0600 10 s in this stage ━━━" in searching  # nobody knows yet what an outcome takes
    assert training.startswith("seed 0  train rtl 50% ")
    assert "20 s in this stage ━━━" in training
    assert judging.startswith("seed 0  judge rtl 50% ")
    assert lines[-1][0].rstrip("━ ").endswith("1 min left")  # the other run takes 71 s as well


@given(st.text("abcß [/]", min_size=1, max_size=80), st.integers(40, 200))
def test_the_line_is_never_wider_than_the_terminal(where, width):
    display = Display(Console(file=io.StringIO(), force_terminal=True, width=width), {})
    words = {"where": where, "loss": "loss 0.0312", "left": "12 h 59 min in this stage"}
    display.bar.update(display.task, words=lambda: words)
    (line,) = lines_of(display, width)
    assert len(line) <= width


def test_a_file_gets_one_line_per_stage(shown):
    display, clock, file, run = shown(terminal=False)
    with display.bar:
        for _ in work(display, clock, run):
            pass
    assert file.getvalue().splitlines() == [
        "seed 0: search own 50%, round 3, density 0.600, loss 0.0900, kappa 0.900",
        "seed 0: train rtl 50%, loss 0.0100",
        "seed 0: judge rtl 50%, 1 min left",
    ]


def test_names_of_runs_are_no_markup(shown):
    display, _, file, run = shown(terminal=False)
    display.turn_to("[bold]x[/bold], seed 0", run)
    display.say("rtl at 50%: [1]")
    assert file.getvalue() == "[bold]x[/bold], seed 0: rtl at 50%: [1]\n"


def test_words():
    assert [clock(s) for s in (0.2, 59.4, 90, 3600)] == ["0 s", "59 s", "2 min", "1 h 0 min"]
    assert stage_words("search-told-single-5e-05") == "search told single 0.005%"
