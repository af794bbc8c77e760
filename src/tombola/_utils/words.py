"""Results as text: tables and matrices with names, as `print` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

Row = TypeVar("Row")
MOST = 12  # names of a matrix, rows of a table


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = (0,)) -> list[str]:
    """Lines of a table; columns are to the right but for those that are named.

    >>> print("\\n".join(table(["ticket", "share"], [["cat", "0.50"], ["a dog", "0.25"]])))
    ticket  share
    cat      0.50
    a dog    0.25
    """
    lines, at = [[*header], *map(list, rows)], set(left)
    wide = [max(len(line[i]) for line in lines) for i in range(len(header))]
    cells = [[c.ljust(w) if i in at else c.rjust(w) for i, (c, w) in enumerate(zip(line, wide, strict=True))]
             for line in lines]  # fmt: skip
    return ["  ".join(line).rstrip() for line in cells]


def matrix(
    names: Sequence[str], values: Sequence[Sequence[float]], whole: str, most: int = MOST
) -> list[str]:
    """Lines of a square matrix under the names of its columns; of a large one, where the ``whole`` is.

    >>> print("\\n".join(matrix(["cat", "dog"], [[1.0, 0.25], [0.25, 1.0]], ".matrix()")))
          cat   dog
    cat  1.00  0.25
    dog  0.25  1.00
    """
    if len(names) > most:
        return [f"({len(names)} of them: see {whole})"]
    rows = zip(names, values, strict=True)
    return table(["", *names], [[name, *(f"{value:.2f}" for value in row)] for name, row in rows])


def shortened(rows: Sequence[Row], most: int = MOST) -> tuple[Sequence[Row], list[str]]:
    """The first of many rows, and a line that says how many there are besides.

    >>> shortened([["a"], ["b"], ["c"]], 2)
    ([['a'], ['b']], ['and 1 more'])
    """
    return rows[:most], [f"and {len(rows) - most:,} more"] if len(rows) > most else []


def counted(number: int, what: str) -> str:
    """A number and what it is of.

    >>> counted(1, "sample"), counted(1200, "sample")
    ('1 sample', '1,200 samples')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"
