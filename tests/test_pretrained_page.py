"""The program of docs/pretrained.md runs, and its table lists the methods that there are."""

import re
from pathlib import Path
from typing import get_args

import torch

from tombola.tickets.merging import Method

PAGE = (Path(__file__).parent.parent / "docs" / "pretrained.md").read_text()


def test_its_program_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,), names = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), {}
    exec(program, names)
    assert 0.85 < float(names["same"].float().mean()) < 1
    x = names["x"]
    assert torch.equal(names["again"](x, ticket="1"), names["tickets"](x, ticket="1"))


def test_its_table_lists_the_methods():
    assert re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE) == list(get_args(Method))
