"""The code of the tutorial runs, in its order, and shows what the page says of it."""

import os
import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Everything that the page defines, and what it prints."""
    names, before, folder = {}, Path.cwd(), tmp_path_factory.mktemp("tutorial")
    printed = []
    names["print"] = lambda *words: printed.append(" ".join(map(str, words)))
    os.chdir(folder)
    try:
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(code, names)
    finally:
        os.chdir(before)
    return names, printed


def test_every_method_is_printed_at_every_sparsity_as_on_the_page(ran):
    names, printed = ran
    shown = re.search(r"```\n(dense.*?)```", PAGE.read_text(), re.DOTALL)[1].splitlines()
    assert [re.sub(r"\.\d+", "", line) for line in printed] == [re.sub(r"\.\d+", "", line) for line in shown]
    conditioned = [float(value) for line in shown for value in re.findall(r": (\d\.\d+)", line)]
    now = [value for values in names["found"].values() for value in values.values()]
    assert now == pytest.approx(conditioned, abs=0.04)  # other machines round differently


def test_the_ticket_wins_against_chance_and_keeps_its_count(ran):
    names, _ = ran
    found, size = names["found"], 64 * 100 + 100 * 50
    assert found["imp"][0.95] > found["random_pruning"][0.95]
    assert names["ticket"].masks.counts == {"all": size - round(0.8 * size)}
    right = (names["answers"] == names["data"].test.y).float().mean()
    assert float(right) == pytest.approx(found["imp"][0.8], abs=0.02)
    assert torch.equal(names["plain"](names["data"].test.x).argmax(1), names["answers"])
