"""Tables on a terminal: nothing is cut off, no caption is squeezed, whatever the width."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tombola.lab.report.shown import parts
from tombola.lab.report.tables import Table

WIDE = Table(
    "digits, preset quick. Ahead of a single mask (imp; union_size_imp), differences within a seed and item",
    ["method", "sparsity", "seeds", *(f"column {i}" for i in range(9))],
    [["rtl", "50%", "3", *(f"+.{i}00 ± .0{i}0" for i in range(9))], ["imp", "50%", "3", *([""] * 9)]],
)


def shown(table, width):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(table.rich())
    return file.getvalue()


def test_a_wide_table_is_printed_in_parts_that_begin_alike():
    text = shown(WIDE, 80)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert all(text.count(cell) == 1 for cell in WIDE.header[3:] + WIDE.body[0][3:])
    assert text.count("method") == text.count("sparsity") == text.count("rtl") > 1
    assert "…" not in text


def test_a_caption_has_the_width_of_the_terminal():
    lines = [line.rstrip() for line in shown(WIDE, 80).splitlines() if line.strip()]
    assert lines[0] == "digits, preset quick. Ahead of a single mask (imp; union_size_imp), differences"
    assert len(shown(Table("a short title", ["a"], [["1"]]), 80).splitlines()[1].rstrip()) == 13


def test_words_in_brackets_are_no_markup():
    assert "[bold]" in shown(Table("t [bold]", ["[red]a"], [["[/x]"]]), 80)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(1, 120))
def test_every_column_is_somewhere_once_and_parts_fit_if_they_can(widths, width):
    header, body = ["x" * w for w in widths], [["y"] * len(widths)]
    found = parts(header, body, width)
    assert all(part[0] == 0 for part in found)
    assert [i for part in found for i in part[1:]] == list(range(1, len(widths)))
    for part in found:
        assert len(part) == 2 or sum(widths[i] + 3 for i in part) + 1 <= width
