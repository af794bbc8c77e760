"""The programs of docs/networks.md run, one after the other, and do what the page says."""

import re
from pathlib import Path

import torch

from tombola.objectives.metrics import METRICS

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"


def test_its_programs_run():
    programs, names = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), {}
    assert len(programs) == 3
    torch.manual_seed(0)
    for program in programs:
        exec(program, names)
    tickets, x = names["tickets"], names["x"]
    with torch.no_grad():
        assert torch.equal(tickets(**x, ticket="cat")["logits"], tickets(x, ticket="cat")["logits"])
    _check_tasks(names)


def _check_tasks(names):
    """Tickets answer in the units of the price, far nearer than its deviation; so says the own metric."""
    houses, north = names["houses"], names["agencies"].members["test"][:, 0]
    answers = names["prices"].predict(houses.test.x[north], "north").outputs[:, 0]
    off = float((answers - houses.test.y[north]).abs().mean())
    assert off < 0.2 * float(houses.test.y[north].std())
    assert names["outcome"].of("off", "north") < 0.3 * float(houses.test.y[north].std())
    METRICS.pop("off")
