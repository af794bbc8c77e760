"""The program of docs/networks.md runs, and does what the page says."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"


def test_its_program_runs():
    (program,), names = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), {}
    torch.manual_seed(0)
    exec(program, names)
    tickets, x = names["tickets"], names["x"]
    with torch.no_grad():
        assert torch.equal(tickets(**x, ticket="cat")["logits"], tickets(x, ticket="cat")["logits"])
