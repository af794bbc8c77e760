"""The experiment of docs/experiments.md: commands know it by MODULE:NAME."""

import json
import re
import sys
from pathlib import Path

import pytest

from tombola.cli import main as cli

PAGE = Path(__file__).parent.parent / "docs" / "experiments.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "shops.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("shops", None)


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([*map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def test_commands_know_an_experiment_of_ones_own(folder, capsys):
    how = ["--set", "T=5", "steps=10", "sparsity=[0.5]", "--json"]
    status, out, err = call(capsys, "run", "shops:SHOPS", "--method", "rtl", *how)
    assert status == 0, err
    assert json.loads(out)
    run = folder / "runs" / "shops.SHOPS-quick" / "seed0"
    assert call(capsys, "resume", run)[0] == 0
    status, _, err = call(capsys, "route", run, "--save", "saved")
    assert status == 0, err
    (folder / "numbers.csv").write_text("0.9,0.1,0.2,0.3\n0.1,0.1,0.2,0.3\n")
    [file] = (folder / "saved").rglob("*.tickets")
    status, out, err = call(capsys, "predict", file, "numbers.csv", "--json")
    assert status == 0, err
    assert [row["input"] for row in json.loads(out)] == ["numbers.csv:1", "numbers.csv:2"]


def test_what_is_not_there_is_one_line(folder, capsys):
    for name, words in (
        ("shops:SHOP", "has no attribute 'SHOP'"),
        ("nowhere:SHOPS", "No module named 'nowhere'"),
        ("shops:load", "is function, not a tombola.experiments.Experiment"),
        ("shop", "there is no experiment 'shop'"),
    ):
        status, _, err = call(capsys, "run", name)
        assert status == 2
        assert words in err
        assert "Traceback" not in err
