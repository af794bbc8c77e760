"""Pictures and sounds that lie beside a run, for a page that carries everything in itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
    """Takes files for one page until it is full.

    Attributes:
        left_out: names and sizes of files that found no place.
    """

    def __init__(self, room: int = LARGEST) -> None:
        self.room, self.left_out = room, list[str]()
        self._seen: set[Path] = set()

    def take(self, runs: Iterable[Path], items: bool = False) -> list[Medium]:
        """What lies in ``pictures`` in a run or beside it, by name, each file once per page.

        Args:
            runs: run directories.
            items: whether they lie one folder deeper, below that of their item.
        """
        found = []
        for folder in _folders(runs, items):
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() in KINDS and file.is_file() and file.resolve() not in self._seen:
                    self._seen.add(file.resolve())
                    medium = self._carried(file)
                    found += [medium] if medium else []
        return found

    def _carried(self, file: Path) -> Medium | None:
        size = file.stat().st_size
        if size > self.room:
            self.left_out.append(f"{file.name} ({size / 1e6:.1f} MB)")
            return None
        self.room -= size
        kind = KINDS[file.suffix.lower()]
        data = base64.b64encode(file.read_bytes()).decode()
        sound = kind.startswith("audio")
        words = file.stem.replace("_", " ").replace("-", " ")
        return Medium(f"{'Sound' if sound else 'Picture'}: {words}", f"data:{kind};base64,{data}", sound)


def _folders(runs: Iterable[Path], items: bool) -> list[Path]:
    above = 3 if items else 2
    places = [place / FOLDER for run in runs for place in [run, *list(run.resolve().parents)[: above - 1]]]
    return [folder for folder in dict.fromkeys(places) if folder.is_dir()]
