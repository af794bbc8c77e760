"""Every method has a card and a row in the table, and a card says nothing of files that are not there."""

import re
from pathlib import Path

import pytest

from tombola.methods.table import METHODS

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "docs" / "methods"
ROWS = ("equation", "when to use it", "arguments", "cost", "source", "what our tests prove")


def test_every_method_has_a_card_and_every_card_a_method():
    assert {file.stem for file in CARDS.glob("*.md")} == {*METHODS, "README"}


@pytest.mark.parametrize("name", METHODS)
def test_a_card_says_what_the_method_does_and_fills_every_row(name):
    text = (CARDS / f"{name}.md").read_text()
    head, what, *_ = text.split("\n\n")
    assert head == f"# `{name}`"
    assert 2 <= len(re.findall(r"[.:]( |$)", what)) <= 3  # two sentences
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))
    assert set(ROWS) <= set(rows)
    assert all(rows[row].strip() for row in ROWS)
    for file in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / file).exists(), file


def test_the_table_has_a_row_for_every_method_and_calls_controls_by_name():
    table = (CARDS / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \|.*\| (.*?) ?\|$", table, re.MULTILINE))
    assert rows.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert (rows[name] != "") == (method.control or name == "random_pruning")
