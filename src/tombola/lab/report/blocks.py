"""What a page is made of: words, tables and charts in chapters; the pictures and sounds beside runs."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tombola.lab.report.charts import Chart
from tombola.lab.report.tables import Table


@dataclass(frozen=True)
class Words:
    """Paragraphs: ``plain`` ones, ``lead`` ones (the answer), or ``missing`` ones (what is not there)."""

    lines: Sequence[str]
    style: str = "plain"


@dataclass(frozen=True)
class Tabled:
    """A table, folded away or not, of numbers or of words; left out where it is empty."""

    table: Table
    folded: bool = True
    words: bool = False

    def __bool__(self) -> bool:
        return bool(self.table.body)


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as many as fit; under a title they are folded away; left out if there are none."""

    charts: Sequence[Chart]
    title: str = ""

    def __bool__(self) -> bool:
        return bool(self.charts)


@dataclass(frozen=True)
class Commands:
    """Lines for a shell, and what they are for."""

    words: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Pictures and sounds."""

    media: Sequence[Medium]


Block = Words | Tabled | Charts | Commands | Gallery


@dataclass(frozen=True)
class Section:
    """One experiment with one preset: blocks by the headings of their chapters, and the answer in short."""

    title: str
    chapters: Mapping[str, Sequence[Block]]
    answer: Sequence[str] = ()


# -- pictures and sounds -------------------------------------------------------------------------------------

FOLDER = "pictures"
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".wav": "audio/wav"}
LARGEST = 1_200_000  # bytes of all files of a page before base64, which adds a third


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
