"""A table on a terminal: the caption over its whole width, and no column cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.table import Table as RichTable
from rich.text import Text

_BESIDE = 3  # signs between two columns


@dataclass(frozen=True)
class Shown:
    """A table that is printed in parts, one below the other, where the terminal is too narrow for it.

    Every part begins with the columns that say whose the numbers are.
    """

    title: str
    header: Sequence[str]
    body: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | RichTable]:
        """For rich."""
        yield Text(f"\n{self.title}", style="bold")
        for columns in parts(self.header, self.body, options.max_width):
            table = RichTable(box=SIMPLE_HEAD)
            for i in columns:
                table.add_column(Text(self.header[i]), justify="left" if i == 0 else "right", no_wrap=True)
            for line in self.body:
                table.add_row(*(Text(line[i]) for i in columns))
            yield table


def parts(header: Sequence[str], body: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Numbers of columns that fit beside each other; the first ones are in every part.

    >>> parts(["method", "sparsity", "union", "core"], [["rtl", "50%", "1,000", "900"]], 30)
    [[0, 1, 2], [0, 1, 3]]
    """
    wide = [max(len(line[i]) for line in (header, *body)) + _BESIDE for i in range(len(header))]
    keys = list(range(2 if list(header[:2]) == ["method", "sparsity"] else 1))
    found = [list(keys)]
    for i in range(len(keys), len(header)):
        if len(found[-1]) > len(keys) and sum(wide[j] for j in [*found[-1], i]) + 1 > width:
            found.append(list(keys))
        found[-1].append(i)
    return found
