"""Speech in noise: clips from a folder with a manifest, and mixtures of them made when a batch needs them.

A sample is a row of small numbers; its sound is made on the fly. Shape letters: S samples of a split, B
batch, T samples in time.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola._utils.errors import DataError, unknown
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Data, Split
from tombola.lab.audio import RATE, mix, read, rms, spectrogram

KINDS = ("speech", "noise")
NEEDED = ("path", "kind", "scene", "split", "speaker", "recording")
SHORTEST = 0.1  # seconds: less is no clip but an accident
SILENT = 1e-4  # root mean square of a 16-bit signal that flickers between 0 and a few steps

# The columns of a row: clip and offset of speech and of noise, ratio in hundredths of dB, samples in time.
SPEECH, SPEECH_AT, NOISE, NOISE_AT, SNR, LENGTH = range(6)
TRAIN_SECONDS, JUDGED_SECONDS = 1, 3
SNRS = (-5, 0, 5, 10)  # dB, at which validation and test are judged; training draws from all between
PER_CELL = {"validation": 16, "test": 24}  # mixtures of each scene at each ratio
QUIET = 0.1  # speech or noise 20 dB below the level of its clip counts as a pause


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


def read_clips(folder: Path | str) -> list[Clip]:
    """The clips that ``manifest.csv`` in a folder lists.

    Columns: ``path`` below the folder, ``kind`` (speech or noise), ``scene`` (of noise), ``split``
    (train, validation or test), ``speaker`` (of speech), ``recording``, and if wanted ``label``.
    Files of other rates are resampled, stereo ones averaged.
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
    if missing := [name for name in NEEDED if name not in rows[0]]:
        raise DataError(f"{manifest} has no column {', '.join(missing)}; it has {', '.join(rows[0])}")
    return [_clip(manifest, number, row) for number, row in enumerate(rows, 2)]


def _clip(manifest: Path, number: int, row: dict[str, str]) -> Clip:
    where = f"line {number} of {manifest}"
    row = {key: value or "" for key, value in row.items()}
    for name, known in (("kind", KINDS), ("split", SPLITS)):
        if row[name] not in known:
            raise DataError(f"{where}: {unknown(name, row[name], known)}")
    speech = row["kind"] == "speech"
    for name in ("speaker",) if speech else ("scene", "recording"):
        if not row[name]:
            raise DataError(f"{where}: {row['kind']} needs a {name}")
    if not (manifest.parent / row["path"]).is_file():
        raise DataError(f"{where}: there is no file {row['path']}")
    waves = read(manifest.parent / row["path"])
    waves = waves - waves.mean()  # SI-SNR ignores a constant, so a mixture's ratio should as well
    if len(waves) < SHORTEST * RATE:
        raise DataError(f"{where}: {row['path']} lasts {len(waves) / RATE:.3f} s, too short to be used")
    if float(np.sqrt(np.square(waves, dtype=np.float64).mean())) < SILENT:
        raise DataError(f"{where}: {row['path']} is silent, so it has no signal-to-noise ratio: leave it out")
    source, scene = (row["speaker"], "") if speech else (row["recording"], row["scene"])
    return Clip(to_int16(waves), row["kind"], row["split"], source, scene, row.get("label", ""))


def to_int16(waves: NDArray[np.floating]) -> NDArray[np.int16]:
    """Samples between -1 and 1 as 16-bit numbers."""
    return np.clip(np.round(waves * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def with_validation(clips: Sequence[Clip]) -> list[Clip]:
    """Clips of which some training ones became validation: whole speakers, whole recordings.

    About one in six speakers, and one in four recordings of every kind of noise. Clips that have a
    validation split already stay as they are.
    """
    _check_disjoint(clips)
    if any(clip.split == "validation" for clip in clips):
        return list(clips)
    speakers = _sources(clips, kind="speech")
    held = _drawn("speech", "speakers", speakers, max(1, len(speakers) // 6))
    for scene in scenes(clips):
        of_scene: set[tuple[str, str]] = set()
        for label in sorted({clip.label for clip in clips if clip.scene == scene}):
            found = _sources(clips, scene=scene, label=label)
            of_scene |= set(_order(found, scene, label)[: (len(found) + 2) // 4])
        held |= of_scene or _drawn(f"noise of scene {scene!r}", "recordings", _sources(clips, scene=scene), 1)
    moved = [clip.split == "train" and (clip.kind, clip.source) in held for clip in clips]
    return [replace(c, split="validation") if out else c for c, out in zip(clips, moved, strict=True)]


def scenes(clips: Iterable[Clip]) -> list[str]:
    """The scenes of the noise clips, sorted."""
    return sorted({clip.scene for clip in clips if clip.kind == "noise"})


def _sources(clips: Iterable[Clip], **wanted: str) -> list[tuple[str, str]]:
    """Kind and source of the training clips with these attributes."""
    wanted = {"split": "train", **wanted}
    found = (clip for clip in clips if all(getattr(clip, key) == value for key, value in wanted.items()))
    return sorted({(clip.kind, clip.source) for clip in found})


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
            both = " and ".join(sorted(found))
            raise DataError(f"{what} {source!r} is in the splits {both}: keep it in one")


# -- mixtures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bank:
    """All clips in one array, int16: clip c is ``samples[starts[c]:starts[c] + lengths[c]]``.

    ``scenes`` holds the number of each clip's scene (-1 for speech), ``levels`` its root mean square.
    """

    samples: Tensor
    starts: Tensor
    lengths: Tensor
    scenes: Tensor
    levels: Tensor

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> Bank:
        """The bank of these clips, in their order."""
        names, samples = scenes(clips), torch.from_numpy(np.concatenate([clip.samples for clip in clips]))
        lengths = torch.tensor([len(clip.samples) for clip in clips])
        numbers = torch.tensor([names.index(clip.scene) if clip.scene else -1 for clip in clips])
        levels = torch.tensor([float(np.sqrt(np.square(c.samples / 2**15).mean())) for c in clips])
        return cls(samples, lengths.cumsum(0) - lengths, lengths, numbers, levels)

    def crop(self, clip: Tensor, offset: Tensor, T: int) -> Tensor:
        """T samples of each clip ``[B]`` from an offset on, int16 ``[B, T]``; its end leads to its start."""
        starts, lengths = self.starts[clip].tolist(), self.lengths[clip].tolist()
        rows = [
            np.take(self.samples[start : start + length].numpy(), np.arange(at, at + T), mode="wrap")
            for start, length, at in zip(starts, lengths, offset.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True)
class Mixer:
    """``Data.prepare``: rows ``[B, 6]`` to spectrograms of mixtures ``[B, 2, frames, bins]``."""

    bank: Bank

    def __call__(self, rows: Tensor) -> Tensor:
        """The mixtures as the network takes them, on the device of the rows; the sounds are on the CPU."""
        return spectrogram(self.waves(rows.cpu())[1].to(rows.device))

    def waves(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Clean speech and mixture, float ``[B, T]`` each."""
        columns, T = rows.long().unbind(1), int(rows[0, LENGTH])
        where = ((SPEECH, SPEECH_AT), (NOISE, NOISE_AT))
        clean, noise = (self.bank.crop(columns[c], columns[at], T).float() / 2**15 for c, at in where)
        quietest = QUIET * self.bank.levels[columns[NOISE], None]
        return clean, mix(clean, noise, columns[SNR] / 100, quietest)


@dataclass(frozen=True)
class Redraw:
    """``Data.augment``: the same speech with other noise of the same scene, at another ratio.

    ``weights [scenes, clips]`` are the chances of the training clips: every kind of noise has the same.
    """

    bank: Bank
    weights: Tensor

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Rows with new noise, offset and ratio."""
        device, rows, B = rows.device, rows.cpu().clone(), len(rows)
        chances = self.weights[self.bank.scenes[rows[:, NOISE].long()]]
        noise = torch.multinomial(chances, 1, generator=generator)[:, 0]
        where, ratio = torch.rand(2, B, generator=generator)
        rows[:, NOISE] = noise
        rows[:, NOISE_AT] = (where * self.bank.lengths[noise]).long().to(rows.dtype)
        rows[:, SNR] = (100 * (SNRS[0] + ratio * (SNRS[-1] - SNRS[0]))).round().to(rows.dtype)
        return rows.to(device)


def mixtures(clips: Sequence[Clip], augment: bool) -> Data:
    """Data whose ``x`` are rows and whose ``y`` are the clean waveforms, int16 ``[S, T]``.

    Training has every second of speech once in every scene, at random ratios from -5 to 10 dB, and with
    ``augment`` draws noise and ratio afresh for each batch. Validation and test have the same number of
    mixtures in each scene at -5, 0, 5 and 10 dB. Columns ``scene`` and ``snr``.
    """
    clips = with_validation(clips)
    bank, names = Bank.of(clips), scenes(clips)
    if not names:
        raise DataError("there is no noise among the clips: mixtures need some, with its scene")
    splits = {}
    for split in SPLITS:
        T = RATE * (TRAIN_SECONDS if split == "train" else JUDGED_SECONDS)
        speech, weights = _speech(clips, bank, split, T), _weights(clips, split, names)
        g = generator(0, "speech", split)
        rows = torch.cat([_rows(bank, speech, chances, split, T, g) for chances in weights])
        rows = rows[torch.randperm(len(rows), generator=g)]  # so that any half of it is like the whole
        scene, snr = np.array(names)[bank.scenes[rows[:, NOISE]].numpy()], rows[:, SNR].numpy() / 100
        y = bank.crop(rows[:, SPEECH], rows[:, SPEECH_AT], T)
        splits[split] = Split(rows.to(torch.int32), y, {"scene": scene, "snr": snr})
    redraw = Redraw(bank, _weights(clips, "train", names)) if augment else None
    train, validation, test = splits.values()
    return Data(train, validation, test, prepare=Mixer(bank), augment=redraw)


def _speech(clips: Sequence[Clip], bank: Bank, split: str, T: int) -> Tensor:
    """Crops that tile the speech of a split, pauses left out: clip and offset, ``[crops, 2]``."""
    found = []
    for number, clip in enumerate(clips):
        L = len(clip.samples)
        if clip.kind == "speech" and clip.split == split and T <= L:
            offsets = torch.linspace(0, L - T, -(-L // T)).long().unique()
            found.append(torch.stack([torch.full_like(offsets, number), offsets], 1))
    if not found:
        raise DataError(f"no speech clip in {split} lasts {T / RATE:g} s, the length of a crop")
    crops = torch.cat(found)
    return crops[_loud(bank, crops, T)]


def _loud(bank: Bank, crops: Tensor, T: int) -> Tensor:
    """Which crops are no pauses, ``[crops]``."""
    levels = [rms(bank.crop(part[:, 0], part[:, 1], T) / 2**15)[:, 0] for part in crops.split(64)]
    return torch.cat(levels) > QUIET * bank.levels[crops[:, 0]]


def _weights(clips: Sequence[Clip], split: str, names: Sequence[str]) -> Tensor:
    """Chances ``[scenes, clips]`` of the noise clips of a split: every label of a scene has the same."""
    weights = torch.zeros(len(names), len(clips))
    count = Counter((clip.scene, clip.label) for clip in clips if clip.split == split)
    for number, clip in enumerate(clips):
        if clip.scene and clip.split == split:
            weights[names.index(clip.scene), number] = 1 / count[clip.scene, clip.label]
    for scene, chances in zip(names, weights, strict=True):
        if not chances.any():
            raise DataError(f"there is no noise of scene {scene!r} in {split}")
    return weights


def _noise(bank: Bank, chances: Tensor, count: int, T: int, g: torch.Generator) -> Tensor:
    """Clip and offset of noise that is no pause, ``[count, 2]``."""
    drawn: list[Tensor] = []
    while sum(map(len, drawn)) < count:
        noise = torch.multinomial(chances, count, replacement=True, generator=g)
        offset = (torch.rand(count, generator=g) * bank.lengths[noise]).long()
        crops = torch.stack([noise, offset], 1)
        drawn.append(crops[_loud(bank, crops, T)])
    return torch.cat(drawn)[:count]


def _rows(bank: Bank, speech: Tensor, chances: Tensor, split: str, T: int, g: torch.Generator) -> Tensor:
    """The rows of a scene ``[S, 6]``: in training all speech once, each at a ratio of its own.

    Else the same speech and noise at each ratio, so that ratios differ in nothing else.
    """
    if split == "train":
        noise = _noise(bank, chances, len(speech), T, g)
        ratios = [torch.randint(100 * SNRS[0], 100 * SNRS[-1] + 1, (len(speech), 1), generator=g)]
    else:
        count = PER_CELL[split]
        order = torch.cat([torch.randperm(len(speech), generator=g) for _ in range(-(-count // len(speech)))])
        speech, noise = speech[order[:count]], _noise(bank, chances, count, T, g)
        ratios = [torch.full((count, 1), 100 * snr) for snr in SNRS]
    length = torch.full((len(speech), 1), T)
    return torch.cat([torch.cat([speech, noise, ratio, length], 1) for ratio in ratios])
