"""Every method has a card and a row in the table."""

import re
from pathlib import Path

from tombola.methods.table import METHODS

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "docs" / "methods"


def test_every_method_has_a_card_and_every_card_a_method():
    assert {file.stem for file in CARDS.glob("*.md")} == {*METHODS, "README"}


def test_the_table_has_a_row_for_every_method_and_calls_controls_by_name():
    table = (CARDS / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \|.*\| (.*?) ?\|$", table, re.MULTILINE))
    assert rows.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert (rows[name] != "") == (method.control or name == "random_pruning")
