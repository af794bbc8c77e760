"""Tickets at work on sound, piece by piece: files of any length, and recordings that pass through scenes.

Shape letters: K tickets, T samples in time, I blocks, P pieces of the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import pad

from tombola._utils.errors import DataError, RunError, UsageError, unknown
from tombola._utils.io import file_name
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.lab import audio
from tombola.lab.audio import Waves, checked, open_sound
from tombola.lab.experiments.speech_data import LENGTH, Mixer
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.tickets.model import TicketModel, load

CHUNK, OVERLAP = 10, 1  # seconds of a file at a time, and how long two of them are faded into each other
PIECE = 4  # seconds of one speaker in one noise
STEP = audio.RATE // 2  # samples that are decided and enhanced at a time
PAST, AHEAD = 2 * STEP, STEP // 2  # what the network sees before them and after them
FADE = 1024  # samples in which one block gives way to the next


def find_tickets(path: Path) -> TicketModel:
    """The tickets of a file; of a run directory, those of RTL at its lowest sparsity."""
    if path.is_dir():
        files = list((path / "tickets").glob("rtl-*.tickets"))
        if not files:
            raise RunError(
                f"{path} holds no tickets/rtl-*.tickets: give a ticket file, or a speech run of rtl"
            )
        path = min(files, key=lambda file: float(file.stem.removeprefix("rtl-")))
    return load(path, SpeechUNet())


def enhance_file(
    source: Path,
    tickets: TicketModel,
    ticket: str | None,
    out: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Enhance the speech in a sound file with one ticket; returns the file written, 16-bit WAV.

    Rate and channels stay; nothing above 8 kHz does, because the network works at 16 kHz. Every channel
    is enhanced by itself. Ten seconds at a time are in memory, faded into each other over one second.
    """
    out = wave_of(source, tickets, ticket) if out is None else out
    ticket = _ticket(tickets, ticket)
    if out.suffix.lower() != ".wav":
        raise UsageError(f"WAV is written, so give -o NAME.wav: got {out}")
    if not out.parent.is_dir():
        raise DataError(f"there is no folder {out.parent} to write {out.name} into")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{out} is the source itself: give another file with -o")
    with open_sound(source) as file:
        partial = out.with_name(f".{out.name}.partial")  # an interruption leaves no half of a result
        try:
            options = {"subtype": "PCM_16", "format": "WAV"}
            with soundfile.SoundFile(str(partial), "w", file.samplerate, file.channels, **options) as written:
                for block in enhanced_blocks(file, tickets, ticket):
                    written.write(np.clip(block, -1, 1))
                    if on_progress is not None:
                        on_progress(written.tell(), file.frames)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    return out


def enhanced_blocks(file: soundfile.SoundFile, tickets: TicketModel, ticket: str) -> Iterator[Waves]:
    """The enhanced sound ``[T, channels]`` piece by piece, as long together as the file."""
    rate = file.samplerate
    step, overlap = (CHUNK - OVERLAP) * rate, OVERLAP * rate
    fade = np.linspace(0, 1, overlap, dtype=np.float32)[:, None]
    kept = checked(file.read(overlap, dtype="float32", always_2d=True), file.name)  # heard by two chunks
    before: Waves | None = None
    while True:
        fresh = file.read(step, dtype="float32", always_2d=True)
        chunk = np.concatenate([kept, checked(fresh, file.name) if len(fresh) else fresh])
        made = _enhanced(chunk, rate, tickets, ticket)
        if before is not None:
            made[: len(before)] = fade * made[: len(before)] + (1 - fade) * before
        if len(fresh) < step:
            yield made
            return
        yield made[:-overlap]
        before, kept = made[-overlap:], chunk[-overlap:]


@torch.no_grad()
def _enhanced(chunk: Waves, rate: int, tickets: TicketModel, ticket: str) -> Waves:
    """``[T, channels]`` to the same shape; channels are the batch."""
    waves = torch.from_numpy(np.ascontiguousarray(audio.resample(chunk, rate, audio.RATE).T))
    length = max(waves.shape[1], audio.WINDOW)
    padded = pad(waves, (0, length - waves.shape[1]))
    outputs = audio.waveform(tickets(audio.spectrogram(padded), ticket=ticket), length)
    return audio.resample(outputs[:, : waves.shape[1]].T.numpy(), audio.RATE, rate)[: len(chunk)].copy()


def wave_of(source: Path, tickets: TicketModel, ticket: str | None) -> Path:
    """Where enhanced speech goes where no file is named."""
    return source.with_name(f"{source.stem}-{file_name(_ticket(tickets, ticket))}.wav")


def _ticket(tickets: TicketModel, name: str | None) -> str:
    if name is None and len(tickets.names) > 1:
        raise UsageError(f"which ticket? Give --ticket NAME, one of {', '.join(tickets.names)}")
    if name is not None and name not in tickets.names:
        raise UsageError(unknown("ticket", name, tickets.names))
    return name or tickets.names[0]


# -- recordings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One mixture of pieces, with what is in it."""

    clean_T: Tensor  # the speech, float ``[T]``, 16 kHz
    noisy_T: Tensor  # speech and noise
    scene_P: Tensor  # the number of each piece's scene in ``scenes``, int64 ``[P]``; pieces are equally long
    scenes: tuple[str, ...]  # their names

    @property
    def blocks(self) -> int:
        """How many blocks of `STEP` samples it has."""
        return len(self.noisy_T) // STEP

    def scene_I(self) -> Tensor:
        """The scene in the middle of each block, int64 ``[I]``."""
        middle_I = torch.arange(self.blocks) * STEP + STEP // 2
        return self.scene_P[middle_I * len(self.scene_P) // len(self.noisy_T)]

    def changes(self) -> list[float]:
        """When another scene begins, in seconds."""
        seconds = len(self.noisy_T) / audio.RATE / len(self.scene_P)
        return [float(seconds * (p + 1)) for p in (self.scene_P.diff() != 0).nonzero()[:, 0].tolist()]

    def pieces(self, wave_T: Tensor) -> Tensor:
        """A waveform in the pieces of the recording, ``[P, T / P]``."""
        return wave_T.view(len(self.scene_P), -1)


def recording(
    data: Data, partition: Partition, split: str, order: Sequence[int], snr: float, seconds: int, seed: int
) -> Recording:
    """Held-out voices in held-out noises, scene after scene, at one signal-to-noise ratio."""
    if not isinstance(data.prepare, Mixer) or "snr" not in data.split(split).columns:
        raise DataError(
            "a stream is made of the mixtures of the experiment speech, and these data are others"
        )
    if seconds < PIECE or seconds % PIECE:
        raise UsageError(f"a scene lasts a multiple of {PIECE} seconds: got {seconds}")
    held, count = data.split(split), seconds // PIECE
    at_snr_S = torch.as_tensor(held.column("snr") == snr)
    drawn: list[Tensor] = []
    for k in range(len(partition)):
        mine = (partition.members[split][:, k] & at_snr_S).nonzero()[:, 0]
        needed = count * list(order).count(k)
        if len(mine) < needed:
            known = ", ".join(f"{value:g}" for value in sorted(set(held.column("snr").tolist())))
            raise DataError(
                f"{needed} mixtures of {partition.names[k]} at {snr:g} dB needed, {split} has {len(mine)}, "
                f"and ratios of {known} dB: take one of them, or shorter scenes"
            )
        drawn.append(mine[torch.randperm(len(mine), generator=generator(seed, "recording", split, k))])
    turns = [iter(mine.split(count)) for mine in drawn]
    rows = held.x[torch.cat([next(turns[k]) for k in order])].clone()
    rows[:, LENGTH] = PIECE * audio.RATE
    clean, noisy = data.prepare.waves(rows)
    where = torch.tensor(order).repeat_interleave(count)
    return Recording(clean.flatten(), noisy.flatten(), where, tuple(partition.names))


def seen(noisy_T: Tensor, i: int) -> tuple[Tensor, int]:
    """What the network is given for block i ``[1, T]``, and where in it the block begins."""
    start = i * STEP
    first = max(0, start - PAST)
    return noisy_T[None, first : start + STEP + AHEAD], start - first


def heard(noisy_T: Tensor, i: int, seconds: float) -> Tensor:
    """What the router is given for block i: the last seconds up to what the network sees, ``[1, T]``."""
    last = min(len(noisy_T), (i + 1) * STEP + AHEAD)
    return noisy_T[None, max(0, last - round(seconds * audio.RATE)) : last]


@torch.no_grad()
def block(noisy_T: Tensor, i: int, tickets: TicketModel, ticket: str) -> Tensor:
    """Block i enhanced by a ticket, with `FADE` samples before it, float ``[FADE + STEP]``."""
    x, at = seen(noisy_T, i)
    made = audio.waveform(tickets(audio.spectrogram(x), ticket=ticket), x.shape[1])[0]
    whole = pad(made, (max(0, FADE - at), 0))
    at = max(at, FADE)
    return whole[at - FADE : at + STEP]


def all_blocks(noisy_T: Tensor, tickets: TicketModel) -> Tensor:
    """Every block by every ticket, ``[K, I, FADE + STEP]``: any way to choose is put together from these."""
    blocks = range(len(noisy_T) // STEP)
    return torch.stack([torch.stack([block(noisy_T, i, tickets, t) for i in blocks]) for t in tickets.names])


def joined(blocks_KI: Tensor, who_I: Tensor) -> Tensor:
    """One sound from blocks of several tickets, each faded into the one before, float ``[T]``.

    >>> blocks = torch.stack([torch.zeros(3, FADE + STEP), torch.ones(3, FADE + STEP)])
    >>> sound = joined(blocks, torch.tensor([0, 1, 1]))
    >>> float(sound[0]), float(sound[-1]), 0 < float(sound[STEP - FADE // 2]) < 1
    (0.0, 1.0, True)
    """
    fade = torch.linspace(0, 1, FADE)
    parts: list[Tensor] = []
    for i, k in enumerate(who_I.tolist()):
        made = blocks_KI[k, i]
        if parts:
            parts[-1][-FADE:] = (1 - fade) * parts[-1][-FADE:] + fade * made[:FADE]
        parts.append(made[FADE:].clone())
    return torch.cat(parts)


@torch.no_grad()
def scores(noisy_T: Tensor, tickets: TicketModel, seconds: float) -> tuple[Tensor, Tensor]:
    """What the router says at each block: log-posteriors ``[I, K]`` and confidence ``[I]``."""
    sounds = (heard(noisy_T, i, seconds) for i in range(len(noisy_T) // STEP))
    routed = [tickets.route(audio.spectrogram(x)) for x in sounds]
    return torch.cat([r.scores_BK for r in routed]), torch.cat([r.confidence_B for r in routed])
