"""The program of docs/growth.md runs, and its table lists the rivals that there are."""

import re
from pathlib import Path
from typing import get_args

import torch

from tombola.lab.continual.rivals import RIVALS
from tombola.tickets.growth import Policy

PAGE = (Path(__file__).parent.parent / "docs" / "growth.md").read_text()


def test_its_program_runs():
    (program,), names = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), {}
    torch.manual_seed(0)
    exec(program, names)
    assert names["two"].names == ("south", "far west")
    x, y = names["site"](4)
    right = names["two"](x, ticket="far west").argmax(1) == y
    assert float(right.float().mean()) > 0.9


def test_its_tables_list_what_there_is():
    policies = re.findall(r"^\| `(\w+)` [^|]*\|[^|]*\|[^|]*\|[^|]*\|$", PAGE, re.MULTILINE)
    assert {*policies} == {*get_args(Policy)}
    assert re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\|$", PAGE, re.MULTILINE) == list(RIVALS)
