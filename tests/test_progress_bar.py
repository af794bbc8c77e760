"""The bar of calls from Python: where it is shown, that it only looks on, that it ends cleanly."""

import io
import sys
import types

import pytest
import rich.console
import torch
from torch import nn

import tombola as tb
from tombola.runs import progress
from tombola.runs.progress import progress_bar


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal gets as standard error."""
    file = io.StringIO()
    plain = rich.console.Console

    def console(**options):
        return plain(**{**options, "file": file, "force_terminal": True, "width": 100, "color_system": None})

    monkeypatch.setattr(rich.console, "Console", console)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    return file


@pytest.fixture
def given():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    x = torch.randn(120, 6, generator=g) + y[:, None]
    data = tb.Data.of(x, y, validation=0.3, test=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return net, tb.objectives.OneVsRest(), data, tb.partition.by_label(data, ["a", "b"])


SHORT = {"sparsity": (0.5, 0.8), "schedule": "one_shot", "T": 2, "steps": 3}


def test_a_terminal_sees_every_stage_and_keeps_nothing(terminal, given):
    tb.find("rtl", *given, **SHORT)
    shown = terminal.getvalue()
    for words in ("rtl  search own 50%", "rtl  train rtl 50%", "rtl  search own 80%", "rtl  train rtl 80%"):
        assert words in shown
    assert "round 1" in shown
    assert "loss 0." in shown
    assert shown.endswith("\x1b[2K")  # the line is gone
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # one bar, and the cursor is back


@pytest.mark.parametrize("parallel", ["no", "workers"])
def test_results_are_the_same_bytes_with_it(terminal, given, parallel, tmp_path):
    for name, wanted in (("with", True), ("without", False)):
        tb.find("rtl", *given, **SHORT, parallel=parallel, progress=wanted, out=tmp_path / name)
    assert terminal.getvalue()
    for file in ("records.jsonl", "tickets/rtl-0.5.tickets", "tickets/rtl-0.8.tickets"):
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_it_ends_with_an_error_or_an_interrupt(terminal, given, error, monkeypatch):
    out, err = sys.stdout, sys.stderr

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("tombola.methods.pipeline.train_jointly", fail)
    with pytest.raises(error):
        tb.rtl(*given, sparsity=0.5, T=2, steps=3)
    assert terminal.getvalue().endswith("\x1b[2K")
    assert "\x1b[?25h" in terminal.getvalue()
    assert (sys.stdout, sys.stderr) == (out, err)


def test_a_file_gets_nothing_or_a_line_per_stage_if_that_is_wanted(given, capsys):
    tb.find("dense", *given, **SHORT)
    assert capsys.readouterr().err == ""
    tb.find("rtl", *given, **{**SHORT, "sparsity": 0.5}, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", ")[0] for line in lines] == ["rtl: search own 50%", "rtl: train rtl 50%"]


def test_false_is_nothing_and_drawing_is_rare(terminal, given, monkeypatch):
    tb.rtl(*given, sparsity=0.5, T=2, steps=3, progress=False)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(progress, "EVERY", 60.0)
    with progress_bar("x") as bar:
        drawn = []
        bar.draw = lambda: drawn.append(1)
        for step in range(1, 10_001):
            bar.on_record("train-rtl-0.5", {"event": "retrain", "loss": 1.0})
            bar.on_progress("train-rtl-0.5", step, 10_000)
    assert len(drawn) <= 2


def test_a_notebook_has_one_output_that_is_updated(given, monkeypatch):
    updates = []

    class Handle:
        def update(self, shown, raw=False):
            updates.append(shown if raw else shown._repr_mimebundle_((), ())["text/plain"])

    displays = []
    module = types.ModuleType("IPython.display")
    module.display = lambda *shown, display_id: displays.append(shown) or Handle()
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    plain = rich.console.Console
    monkeypatch.setattr(rich.console, "Console", lambda **options: plain(**options, force_jupyter=True))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    tb.rtl(*given, sparsity=0.5, T=2, steps=3)
    assert len(displays) == 1
    assert any("search own 50%" in shown for shown in updates[:-1])
    assert any("train rtl 50%" in shown for shown in updates[:-1])
    assert updates[-1] == {"text/plain": ""}


def test_without_rich_there_is_none_and_an_error_where_it_is_wanted(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with progress_bar("x") as bar:
        assert bar is None
    with pytest.raises(tb.errors.MissingExtra, match=r"a progress bar: rich is needed; .*\[lab\]"):
        progress_bar("x", True).__enter__()
