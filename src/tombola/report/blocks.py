"""What a page is made of; the template has a macro for each ``kind``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tombola.report.figures import Figure
from tombola.report.media import Medium
from tombola.report.tables import Table


@dataclass(frozen=True)
class Words:
    """Paragraphs; ``missing`` ones say what is not there."""

    kind: ClassVar[str] = "words"
    lines: Sequence[str]
    missing: bool = False


@dataclass(frozen=True)
class Verdicts:
    """Sentences of a comparison, by what they are about."""

    kind: ClassVar[str] = "verdicts"
    title: str
    lines: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Figures:
    """Charts side by side, as many as fit."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Tabled:
    """A table, folded away or not."""

    kind: ClassVar[str] = "table"
    table: Table
    folded: bool = False


@dataclass(frozen=True)
class Slides:
    """Named figures, one at a time under a slider; all of them without a script and in print."""

    kind: ClassVar[str] = "slides"
    label: str
    frames: Sequence[tuple[str, Figure]]


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


Block = Words | Verdicts | Figures | Tabled | Slides | Commands | Gallery


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
