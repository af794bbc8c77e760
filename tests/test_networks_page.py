"""The programs of docs/networks.md run, one after the other, and do what the page says."""

import re
from pathlib import Path

import pytest
import torch

from tombola._utils.errors import OptimizerError

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"


def test_its_programs_run():
    programs, names = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), {}
    assert len(programs) == 2
    torch.manual_seed(0)
    exec(programs[0], names)
    before = {name: names["tickets"].bake(name).state_dict() for name in names["tickets"].names}
    exec(programs[1], names)
    for name, old in before.items():
        assert not all(torch.equal(a, old[n]) for n, a in names["tickets"].bake(name).state_dict().items())
    with pytest.raises(OptimizerError, match="step without masks"):
        names["optimizer"].step()
