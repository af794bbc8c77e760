"""What a page is made of: blocks, and the pictures and sounds that lie beside runs."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tombola.lab.report.figures import Figure
from tombola.lab.report.tables import Table


class Block:
    """A part of a chapter; the template has a macro for each ``kind``."""

    @property
    def kind(self) -> str:
        """The name of the class in lower case."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Words(Block):
    """Paragraphs; ``missing`` ones say what is not there, ``lead`` ones are the answer."""

    lines: Sequence[str]
    missing: bool = False
    lead: bool = False


@dataclass(frozen=True)
class Cell:
    """A difference and its interval: ``up`` or ``down`` if certain, ``unsure``, ``printed`` in the paper."""

    text: str = ""
    mark: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """A measure on a card: the value, named others beside it, and what the value is ahead of one of them."""

    label: str
    value: str
    beside: Sequence[tuple[str, str]] = ()
    ahead: Cell | None = None


@dataclass(frozen=True)
class Card:
    """Headline figures at one sparsity."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Cards(Block):
    """Headline figures side by side; ``name`` is whose."""

    name: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Standings(Block):
    """Differences: a named group of columns per measure, a named part per kind of rival, a row per rival."""

    title: str
    columns: Sequence[tuple[str, Sequence[str]]]
    parts: Sequence[tuple[str, Sequence[tuple[str, Sequence[Cell]]]]]
    note: str


@dataclass(frozen=True)
class Figures(Block):
    """Charts side by side, as many as fit."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Tabled(Block):
    """A table, folded away or not, of numbers or of words."""

    table: Table
    folded: bool = True
    words: bool = False


@dataclass(frozen=True)
class Slides(Block):
    """Named frames of figures, one frame at a time under a slider; all without a script and in print."""

    label: str
    frames: Sequence[tuple[str, Sequence[Figure]]]


@dataclass(frozen=True)
class Folded(Block):
    """Slides for those who want to know more."""

    title: str
    slides: Sequence[Slides]


@dataclass(frozen=True)
class Commands(Block):
    """Lines for a shell."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery(Block):
    """Pictures and sounds."""

    media: Sequence[Medium]


@dataclass(frozen=True)
class Chapter:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """One experiment with one preset."""

    title: str
    chapters: Sequence[Chapter] = field(default_factory=list)


# -- pictures and sounds -------------------------------------------------------------------------------------

FOLDER = "pictures"
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".wav": "audio/wav"}
LARGEST = 6_500_000  # bytes of all files of a page before base64, which adds a third


@dataclass(frozen=True)
class Medium:
    """A picture or a sound as a data address, with words for those who do not see or hear it."""

    words: str
    uri: str
    sound: bool


class Shelf:
    """Takes files for one page until it is full; ``left_out`` are those that found no place."""

    def __init__(self, room: int = LARGEST) -> None:
        self.room, self.left_out = room, list[str]()
        self._seen: set[Path] = set()

    def take(self, runs: Iterable[Path], items: bool = False) -> list[Medium]:
        """What lies in ``pictures`` in a run or beside it, by name, each file once per page.

        Runs of ``items`` lie one folder deeper, below that of their item.
        """
        above = 2 if items else 1
        places = [place / FOLDER for run in runs for place in [run, *list(run.resolve().parents)[:above]]]
        found = []
        for folder in filter(Path.is_dir, dict.fromkeys(places)):
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() in KINDS and file.is_file() and file.resolve() not in self._seen:
                    self._seen.add(file.resolve())
                    size = file.stat().st_size
                    if size <= self.room:
                        self.room -= size
                        found.append(_medium(file))
                    else:
                        self.left_out.append(f"{file.name} ({size / 1e6:.1f} MB)")
        return found


def _medium(file: Path) -> Medium:
    kind, data = KINDS[file.suffix.lower()], base64.b64encode(file.read_bytes()).decode()
    sound, words = kind.startswith("audio"), file.stem.replace("_", " ").replace("-", " ")
    return Medium(f"{'Sound' if sound else 'Picture'}: {words}", f"data:{kind};base64,{data}", sound)
