"""The program of docs/pretrained.md runs, and its table lists the methods that there are."""

import re
from pathlib import Path
from typing import get_args

import torch

from tombola.pruning.blockwise import LAYER_SCORES
from tombola.tickets.merging import Method

PAGE = (Path(__file__).parent.parent / "docs" / "pretrained.md").read_text()


def test_its_program_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program, language), names = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), {}
    exec(program, names)
    assert 0.85 < float(names["same"].float().mean()) < 1
    x = names["x"]
    assert torch.equal(names["again"](x, ticket="1"), names["tickets"](x, ticket="1"))
    exec(language, names)
    assert names["found"][0].of("nats", "0") < names["found"][0].of("nats_wrong", "0")


def test_its_table_lists_the_methods():
    assert re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE) == [*get_args(Method), *LAYER_SCORES]
