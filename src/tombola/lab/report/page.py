"""A results page and its twin for machines: tables between two marks in Markdown, rows in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola._utils.errors import DataError, UsageError
from tombola._utils.io import write_bytes
from tombola.lab.report.formats import markdown
from tombola.lab.report.rows import OVER_SEEDS, Row, over_seeds
from tombola.lab.report.tables import Table
from tombola.methods.table import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Place:
    """Where tables stand on a page, and which rows of the twin they replace."""

    begin: str  # the line before the tables
    end: str
    outcome: tuple[str, ...]  # columns; old rows stay unless new rows have the same values in all of these
    rank: Callable[[Row], Any] | None = None  # of old and new rows; without it the new ones come last
    twin: str = ""  # ends the twin's name, on a page with the tables of several commands
    joins: bool = False  # seeds of old rows stay beside those of new ones (`over_seeds`)
    completed: Callable[[Sequence[Row]], list[Row]] = list  # adds what compares old rows and new ones

    def merge(self, old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
        """The new rows, and the old ones of outcomes without new.

        >>> place = Place("", "", ("method",))
        >>> place.merge([{"method": "rtl", "n": 1}, {"method": "imp", "n": 2}], [{"method": "rtl", "n": 3}])
        [{'method': 'imp', 'n': 2}, {'method': 'rtl', 'n': 3}]
        """
        if self.joins:
            before = {_identity(row): row["values"] for row in old}
            new = [over_seeds(row, before.get(_identity(row), {}) | row["values"]) for row in new]

        def outcome(row: Row) -> tuple[Any, ...]:
            return tuple(row.get(name, "") for name in self.outcome)

        replaced = {outcome(row) for row in new}
        both = [row for row in old if outcome(row) not in replaced] + list(new)
        return self.completed(sorted(both, key=self.rank) if self.rank else both)


def _identity(row: Row) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in row.items() if name not in OVER_SEEDS)


def _by_method(row: Row) -> tuple[Any, ...]:
    """Methods in the order of `tombola.methods.table`, others after them."""
    place = [*METHODS, row["method"]].index(row["method"])
    return row["experiment"], row.get("preset", ""), place, row["sparsity"]


def made_by(command: str) -> Place:
    """The place of a command's tables on a page; those of `tombola stream` may share one with others.

    >>> made_by("route").begin
    '<!-- tables: made by `tombola route` -->'
    """
    begin, end = f"<!-- tables: made by `tombola {command}` -->", "<!-- end of tables -->"
    arm, outcome = ("experiment", "preset", "method", "sparsity"), ("experiment", "preset", "sparsity")
    if command == "compare":
        return Place(begin, end, arm, _by_method)
    if command in ("adapt", "continual"):
        return Place(begin, end, arm, joins=True)
    if command == "affinity":
        return Place(begin, end, ("experiment", "preset", "method", "metric"))
    return Place(begin, end, outcome, itemgetter(*outcome), "-stream" if command == "stream" else "")


def place_of(head: tuple[str, str]) -> Place:
    """The place of an experiment and preset on a page of several; changes of the preset do not count.

    >>> place_of(("digits", "quick T=5")).end, place_of(("mine", "")).end
    ('<!-- end of tables: digits quick -->', '<!-- end of tables: mine -->')
    """
    name = " ".join([head[0], *head[1].split()[:1]])
    return Place(f"<!-- tables: {name} -->", f"<!-- end of tables: {name} -->", ("experiment", "preset"))


def put_tables(
    page: Path,
    place: Place,
    rows: Sequence[Row],
    tables: Callable[[Sequence[Row]], Sequence[Table]] | Sequence[Table],
) -> None:
    """Write ``NAME.json`` and put tables into ``NAME.md``; the words around the marks stay.

    The tables, or what makes them of all rows that the twin then holds: the new ones, and old ones of runs
    that may lie elsewhere. A UsageError where the page is no ``.md`` file that can be read, exists without
    the marks, or its twin is damaged.
    """
    check_page(page, place)
    before, after = _around(page, place)
    twin = _twin(page, place)
    merged = place.merge(_stored(twin, place), rows)
    made = tables(merged) if callable(tables) else tables
    write_rows(twin, merged)
    write_bytes(page, f"{before}{place.begin}\n\n{markdown(made)}\n{place.end}{after}".encode())


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Rows as JSON, a line each."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_bytes(file, f"[\n{lines}\n]\n".encode())


def put_figure(figure: Figure, page: Path, of: str = "") -> Path:
    """A figure of a page, as ``pictures/NAME.png`` beside it, or as ``pictures/NAME-OF.png``."""
    path = page.parent / "pictures" / f"{'-'.join(filter(None, (page.stem, of)))}.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def check_page(page: Path, place: Place | None = None) -> None:
    """Raise an error for what can take no tables, as far as that is known before there are any.

    Args:
        page: where tables are to go.
        place: that of the command, with which the marks are known, and the twin; without it any marks do.

    Raises:
        UsageError: the name is not that of a Markdown page.
        DataError: a page that cannot be read, or that is there and has no place for tables; a damaged twin.
    """
    if page.suffix != ".md":
        raise UsageError(f"--write takes a Markdown page, NAME.md: got {page}")
    if page.exists() and "<!-- tables: " not in _text(page):
        raise DataError(f"{page} is there and has no place for tables: name a new page")
    if place is not None:
        _around(page, place)
        _stored(_twin(page, place), place)


def begin_page(page: Path, places: Iterable[Place]) -> None:
    """A page with places for the tables of several, where there is none; one that is there stays as it is."""
    if not page.exists():
        write_bytes(page, _fresh(page, places).encode())


def _text(page: Path) -> str:
    try:
        return page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{page} is no page that can be read ({error})") from None


def _twin(page: Path, place: Place) -> Path:
    return page.with_name(f"{page.stem}{place.twin}.json")


def _fresh(page: Path, places: Iterable[Place]) -> str:
    marks = "\n".join(f"{place.begin}\n{place.end}\n" for place in places)
    return f"# {page.stem}\n\n## Tables\n\n{marks}"


def _around(page: Path, place: Place) -> tuple[str, str]:
    """The words of a page before and after the marks."""
    old = _text(page) if page.exists() else _fresh(page, [place])
    before, _, rest = old.partition(place.begin)
    _, end, after = rest.partition(place.end)
    if not end:
        raise DataError(
            f"{page} has no place for tables: put the lines {place.begin} and {place.end} into it"
        )
    return before, after


def _stored(twin: Path, place: Place) -> list[Row]:
    if not twin.exists():
        return []
    try:
        stored = json.loads(twin.read_text())
        if not isinstance(stored, list) or not all(isinstance(row, dict) for row in stored):
            raise ValueError("no list of rows")
        needed = [name for name in place.outcome if name != "preset"]
        if lacking := [name for name in needed for row in stored if name not in row]:
            raise ValueError(f"a row without {lacking[0]}")
    except (OSError, ValueError) as error:
        raise DataError(f"{twin} is damaged ({error}): delete it, or restore it") from None
    return stored
