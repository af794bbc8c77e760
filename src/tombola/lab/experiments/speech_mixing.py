"""Mixtures on the fly: a sample is a row of small numbers, its sound is made when a batch needs it.

Shape letters: S samples of a split, B batch, T samples in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tombola._utils.errors import DataError
from tombola._utils.rng import generator
from tombola.data.dataset import SPLITS, Data, Split
from tombola.lab.audio.files import RATE
from tombola.lab.experiments.speech_clips import Clip, scenes, with_validation
from tombola.objectives.si_snr import mix, rms
from tombola.objectives.stft import spectrogram

# The columns of a row: clip and offset of speech and of noise, ratio in hundredths of dB, samples in time.
SPEECH, SPEECH_AT, NOISE, NOISE_AT, SNR, LENGTH = range(6)
TRAIN_SECONDS, JUDGED_SECONDS = 1, 3
SNRS = (-5, 0, 5, 10)  # dB, at which validation and test are judged; training draws from all between
PER_CELL = {"validation": 16, "test": 24}  # mixtures of each scene at each ratio
QUIET = 0.1  # speech or noise 20 dB below the level of its clip counts as a pause


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
        names = scenes(clips)
        lengths = torch.tensor([len(clip.samples) for clip in clips])
        levels = [float(np.sqrt(np.square(c.samples / 2**15).mean())) for c in clips]
        return cls(
            torch.from_numpy(np.concatenate([clip.samples for clip in clips])),
            lengths.cumsum(0) - lengths,
            lengths,
            torch.tensor([names.index(clip.scene) if clip.scene else -1 for clip in clips]),
            torch.tensor(levels),
        )

    def crop(self, clip: Tensor, offset: Tensor, T: int) -> Tensor:
        """T samples of each clip ``[B]`` from an offset on, int16 ``[B, T]``; its end leads to its start."""
        made = torch.empty(len(clip), T, dtype=self.samples.dtype)
        starts, lengths = self.starts[clip].tolist(), self.lengths[clip].tolist()
        for row, start, length, at in zip(made, starts, lengths, offset.tolist(), strict=True):
            whole, done = self.samples[start : start + length], 0
            while done < T:
                part = whole[at : at + T - done]
                row[done : done + len(part)] = part
                done, at = done + len(part), 0
        return made


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
        clean = self.bank.crop(columns[SPEECH], columns[SPEECH_AT], T).float() / 2**15
        noise = self.bank.crop(columns[NOISE], columns[NOISE_AT], T).float() / 2**15
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

    Raises:
        DataError: a split lacks speech of the length of a crop, or noise of a scene.
    """
    clips = with_validation(clips)
    bank, names = Bank.of(clips), scenes(clips)
    if not names:
        raise DataError("there is no noise among the clips: mixtures need some, with its scene")
    splits = {}
    for split in SPLITS:
        seconds = TRAIN_SECONDS if split == "train" else JUDGED_SECONDS
        speech = _speech(clips, bank, split, seconds * RATE)
        weights = _weights(clips, split, names)
        g = generator(0, "speech", split)
        make = _once_per_scene if split == "train" else _cells
        rows = make(bank, speech, weights, g, split)
        rows = torch.cat([rows, torch.full((len(rows), 1), seconds * RATE)], 1)
        rows = rows[torch.randperm(len(rows), generator=g)]  # so that any half of it is like the whole
        columns = {
            "scene": np.array(names)[bank.scenes[rows[:, NOISE]].numpy()],
            "snr": rows[:, SNR].numpy() / 100,
        }
        y = bank.crop(rows[:, SPEECH], rows[:, SPEECH_AT], seconds * RATE)
        splits[split] = Split(rows.to(torch.int32), y, columns)
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
    for s, scene in enumerate(names):
        found = [(n, c.label) for n, c in enumerate(clips) if (c.scene, c.split) == (scene, split)]
        if not found:
            raise DataError(f"there is no noise of scene {scene!r} in {split}")
        labels = [label for _, label in found]
        for number, label in found:
            weights[s, number] = 1 / labels.count(label)
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


def _once_per_scene(bank: Bank, speech: Tensor, weights: Tensor, g: torch.Generator, split: str) -> Tensor:  # noqa: ARG001
    rows = []
    for chances in weights:
        noise = _noise(bank, chances, len(speech), TRAIN_SECONDS * RATE, g)
        low, high = 100 * SNRS[0], 100 * SNRS[-1]
        ratio = torch.randint(low, high + 1, (len(speech), 1), generator=g)
        rows.append(torch.cat([speech, noise, ratio], 1))
    return torch.cat(rows)


def _cells(bank: Bank, speech: Tensor, weights: Tensor, g: torch.Generator, split: str) -> Tensor:
    """The same speech and noise at each ratio, so that ratios differ in nothing else."""
    count, rows = PER_CELL[split], []
    for chances in weights:
        order = torch.cat([torch.randperm(len(speech), generator=g) for _ in range(-(-count // len(speech)))])
        pairs = torch.cat([speech[order[:count]], _noise(bank, chances, count, JUDGED_SECONDS * RATE, g)], 1)
        rows += [torch.cat([pairs, torch.full((count, 1), 100 * snr)], 1) for snr in SNRS]
    return torch.cat(rows)
