"""What a page is made of; the template has a macro for each ``kind``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tombola.lab.report.figures import Figure
from tombola.lab.report.media import Medium
from tombola.lab.report.tables import Table

Mark = Literal["", "up", "down", "unsure", "printed"]


@dataclass(frozen=True)
class Words:
    """Paragraphs; ``missing`` ones say what is not there, ``lead`` ones are the answer."""

    kind: ClassVar[str] = "words"
    lines: Sequence[str]
    missing: bool = False
    lead: bool = False


@dataclass(frozen=True)
class Cell:
    """A difference and its interval: ``up`` or ``down`` if certain, ``unsure``, ``printed`` in the paper."""

    text: str = ""
    mark: Mark = ""
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
class Cards:
    """Headline figures side by side; ``name`` is whose."""

    kind: ClassVar[str] = "cards"
    name: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Standings:
    """Differences: a named group of columns per measure, a named part per kind of rival, a row per rival."""

    kind: ClassVar[str] = "standings"
    title: str
    columns: Sequence[tuple[str, Sequence[str]]]
    parts: Sequence[tuple[str, Sequence[tuple[str, Sequence[Cell]]]]]
    note: str


@dataclass(frozen=True)
class Figures:
    """Charts side by side, as many as fit."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Tabled:
    """A table, folded away or not, of numbers or of words."""

    kind: ClassVar[str] = "table"
    table: Table
    folded: bool = True
    words: bool = False


@dataclass(frozen=True)
class Slides:
    """Named frames of figures, one frame at a time under a slider; all without a script and in print."""

    kind: ClassVar[str] = "slides"
    label: str
    frames: Sequence[tuple[str, Sequence[Figure]]]


@dataclass(frozen=True)
class Folded:
    """Slides for those who want to know more."""

    kind: ClassVar[str] = "folded"
    title: str
    slides: Sequence[Slides]


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    kind: ClassVar[str] = "commands"
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Pictures and sounds."""

    kind: ClassVar[str] = "gallery"
    media: Sequence[Medium]


Block = Words | Cards | Standings | Figures | Tabled | Slides | Folded | Commands | Gallery


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
