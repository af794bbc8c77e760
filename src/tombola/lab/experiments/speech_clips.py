"""Clips of speech and of noise: from a folder with a manifest, cut into three splits."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tombola._utils.errors import DataError, unknown
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS
from tombola.lab import audio

KINDS = ("speech", "noise")
NEEDED = ("path", "kind", "scene", "split", "speaker", "recording")
SHORTEST = 0.1  # seconds: less is no clip but an accident
SILENT = 1e-4  # root mean square of a 16-bit signal that flickers between 0 and a few steps


@dataclass(frozen=True)
class Clip:
    """One recording, 16 kHz, one channel, int16 ``[T]``.

    ``label`` says what noise it is; ``source`` is whose voice (speaker) or which original recording,
    which must not be heard in two splits.
    """

    samples: NDArray[np.int16]
    kind: str
    split: str
    source: str
    scene: str = ""
    label: str = ""
    name: str = ""


def read_clips(folder: Path | str) -> list[Clip]:
    """The clips that ``manifest.csv`` in a folder lists.

    Columns: ``path`` below the folder, ``kind`` (speech or noise), ``scene`` (of noise), ``split``
    (train, validation or test), ``speaker`` (of speech), ``recording``, and if wanted ``label``.
    Files of other rates are resampled, stereo ones averaged.

    Raises:
        DataError: no manifest, a column, scene or file is missing, an unknown kind or split, no sound, or
            a silent or very short file.
    """
    manifest = Path(folder).expanduser() / "manifest.csv"
    if not manifest.is_file():
        raise DataError(
            f"there is no {manifest}: --data takes a folder with a manifest.csv of the columns "
            f"{', '.join(NEEDED)}"
        )
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{manifest} is no CSV file in UTF-8 ({error})") from None
    if not rows:
        raise DataError(f"{manifest} lists no files")
    missing = [name for name in NEEDED if name not in rows[0]]
    if missing:
        raise DataError(f"{manifest} has no column {', '.join(missing)}; it has {', '.join(rows[0])}")
    return [_clip(manifest, number, row) for number, row in enumerate(rows, 2)]


def _clip(manifest: Path, number: int, row: dict[str, str]) -> Clip:
    where = f"line {number} of {manifest}"
    row = {key: value or "" for key, value in row.items()}
    for name, known in (("kind", KINDS), ("split", SPLITS)):
        if row[name] not in known:
            raise DataError(f"{where}: {unknown(name, row[name], known)}")
    needed = ("speaker",) if row["kind"] == "speech" else ("scene", "recording")
    for name in needed:
        if not row[name]:
            raise DataError(f"{where}: {row['kind']} needs a {name}")
    if not (manifest.parent / row["path"]).is_file():
        raise DataError(f"{where}: there is no file {row['path']}")
    waves = audio.read(manifest.parent / row["path"])
    waves = waves - waves.mean()  # SI-SNR ignores a constant, so a mixture's ratio should as well
    if len(waves) < SHORTEST * audio.RATE:
        raise DataError(f"{where}: {row['path']} lasts {len(waves) / audio.RATE:.3f} s, too short to be used")
    if float(np.sqrt(np.square(waves, dtype=np.float64).mean())) < SILENT:
        raise DataError(f"{where}: {row['path']} is silent, so it has no signal-to-noise ratio: leave it out")
    return Clip(
        to_int16(waves),
        row["kind"],
        row["split"],
        row["speaker"] if row["kind"] == "speech" else row["recording"],
        row["scene"] if row["kind"] == "noise" else "",
        row.get("label", ""),
        row["path"],
    )


def to_int16(waves: NDArray[np.floating]) -> NDArray[np.int16]:
    """Samples between -1 and 1 as 16-bit numbers."""
    return np.clip(np.round(waves * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def with_validation(clips: Sequence[Clip]) -> list[Clip]:
    """Clips of which some training ones became validation: whole speakers, whole recordings.

    About one in six speakers, and one in four recordings of every kind of noise. Clips that have a
    validation split already stay as they are.

    Raises:
        DataError: a speaker or recording is in two splits, or too few are there to set some aside.
    """
    _check_disjoint(clips)
    if any(clip.split == "validation" for clip in clips):
        return list(clips)
    held: set[tuple[str, str]] = set()
    speakers = _sources(clips, lambda clip: clip.kind == "speech")
    held |= _drawn("speech", "speakers", speakers, max(1, len(speakers) // 6))
    for scene in scenes(clips):
        labels = sorted({clip.label for clip in clips if clip.scene == scene})
        of_scene: set[tuple[str, str]] = set()
        for label in labels:
            found = _sources(clips, lambda c, label=label, s=scene: (c.scene, c.label) == (s, label))  # type: ignore[misc]
            of_scene |= set(_order(found, scene, label)[: (len(found) + 2) // 4])
        if not of_scene:
            found = _sources(clips, lambda c, s=scene: c.scene == s)  # type: ignore[misc]
            of_scene = _drawn(f"noise of scene {scene!r}", "recordings", found, 1)
        held |= of_scene
    return [
        replace(clip, split="validation")
        if clip.split == "train" and (clip.kind, clip.source) in held
        else clip
        for clip in clips
    ]


def scenes(clips: Iterable[Clip]) -> list[str]:
    """The scenes of the noise clips, sorted."""
    return sorted({clip.scene for clip in clips if clip.kind == "noise"})


def _sources(clips: Iterable[Clip], wanted: Callable[[Clip], bool]) -> list[tuple[str, str]]:
    return sorted({(clip.kind, clip.source) for clip in clips if clip.split == "train" and wanted(clip)})


def _order(found: Sequence[tuple[str, str]], *purpose: object) -> list[tuple[str, str]]:
    order = torch.randperm(len(found), generator=generator(0, "speech", "validation", *purpose))
    return [found[i] for i in order.tolist()]


def _drawn(what: str, sources: str, found: Sequence[tuple[str, str]], count: int) -> set[tuple[str, str]]:
    if len(found) <= count:
        raise DataError(
            f"training has {len(found)} {sources} of {what}; at least two are needed, because one is set "
            "aside for validation"
        )
    return set(_order(found, what)[:count])


def _check_disjoint(clips: Iterable[Clip]) -> None:
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for clip in clips:
        splits[clip.kind, clip.source].add(clip.split)
    for (kind, source), found in splits.items():
        if len(found) > 1:
            what = "speaker" if kind == "speech" else "noise recording"
            raise DataError(
                f"{what} {source!r} is in the splits {' and '.join(sorted(found))}: keep it in one"
            )
